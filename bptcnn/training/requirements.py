"""What a run takes of this machine, memory and descriptors, added up before anything of it is started.

coordinator   is there already, and has compiled; evaluates, writes checkpoints
agents here   an interpreter with libraries and kernels each, and a subnetwork
shared        the weight buffer, training images and labels
"""

from collections.abc import Sequence

from bptcnn.available import require_available, require_for_each
from bptcnn.data import Samples
from bptcnn.descriptors import raise_descriptor_limit, require_descriptors
from bptcnn.inner.subnetwork import memory_needed
from bptcnn.memory.layout import Layout
from bptcnn.networks import Network
from bptcnn.nodes.local import DESCRIPTORS as LOCAL_DESCRIPTORS
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.remote import DESCRIPTORS as HOST_DESCRIPTORS
from bptcnn.training.members import Member
from bptcnn.training.settings import TrainSettings

MOST_JOINED = 16  # places for nodes that join: a slot of 64 KiB each, until one comes
# What processes take for themselves (RssAnon), measured on Linux x86-64: tests/training/test_requirements.py
AGENT_BYTES = 110_000_000  # an agent with libraries and kernels, beside its subnetwork: 97 MB
_COORDINATOR_BYTES = 50_000_000  # what the coordinator takes more by a run's end: its threads, the report's libraries
# Files that all our processes have mapped: 88 MB. They count as file cache, as if they could be had back.
_LIBRARY_BYTES = 90_000_000
_CHECKPOINT_COPIES = 3  # of the weights while they are written: their snapshot, the tensors' bytes, the file's
_RUN_DESCRIPTORS = 11  # the folder's lock, the door, epoll; four pieces of shared memory, whose mappings have their own


def subnetwork_bytes(network: Network, settings: TrainSettings, threads: int) -> int:
    """Return what a node's subnetwork takes."""
    return memory_needed(network, settings.batch_size, threads, settings.precision)


def optimizer_bytes(network: Network, settings: TrainSettings) -> int:
    """Return what a node's optimizer state takes where it is handed over."""
    return OptimizerMemory.size(network.size if settings.momentum else 0)


def sample_bytes(train: Samples) -> int:
    """Return what the samples take that nodes here share."""
    return train.images.nbytes + train.labels.nbytes


def require_memory(
    network: Network, train: Samples, settings: TrainSettings, members: Sequence[Member], cores: int
) -> int:
    """Raise UserError where this machine's nodes and the coordinator together need more memory than there is.

    Return the bytes of all but the evaluator, of which only the least is counted: it takes what is left, see Evaluator.
    """
    threads = [member.threads for member in members if member.host is None]
    own = {count: subnetwork_bytes(network, settings, count) for count in set(threads)}
    state = optimizer_bytes(network, settings)
    shared = Layout(network.size, len(members) + MOST_JOINED).size_with(len(members)) + state * len(threads)
    shared += sample_bytes(train) if threads else 0
    checkpoint = 4 * network.size + state * len(members)
    need = shared + _LIBRARY_BYTES + _COORDINATOR_BYTES + _CHECKPOINT_COPIES * checkpoint
    need += sum(AGENT_BYTES + own[count] for count in threads)
    all_told = need + memory_needed(network, 1, cores, training=False)
    what = f"{_counted(members)} {all_told / 1e6:,.0f} MB here at batch size {settings.batch_size}"
    remedy = "use fewer nodes or a smaller batch"
    require_available(all_told, what, remedy, shared=True)
    each = shared + max(own.values(), default=0)
    require_for_each(each, f"a node needs {each / 1e6:,.0f} MB of addresses", remedy)
    return need


def require_run_descriptors(members: Sequence[Member]) -> None:
    """Raise UserError where the coordinator may not open what its nodes need; make room for some that join."""
    hosts = sum(member.host is not None for member in members)
    nodes = HOST_DESCRIPTORS * hosts + LOCAL_DESCRIPTORS * (len(members) - hosts)
    require_descriptors(_RUN_DESCRIPTORS + nodes, _counted(members))
    raise_descriptor_limit(_RUN_DESCRIPTORS + nodes + MOST_JOINED * (HOST_DESCRIPTORS + 1))


def require_for_joining(
    network: Network, train: Samples, settings: TrainSettings, member: Member, shares: bool
) -> None:
    """Raise UserError where there is no room for one more node; `shares`: the samples are in shared memory already."""
    require_descriptors(1 + (HOST_DESCRIPTORS if member.host else LOCAL_DESCRIPTORS), "one more node needs")
    if member.host is None:
        need = AGENT_BYTES + subnetwork_bytes(network, settings, member.threads) + optimizer_bytes(network, settings)
        need += 0 if shares else sample_bytes(train)
        require_available(need, f"a node needs {need / 1e6:,.0f} MB here", "use a host, or fewer threads", shared=True)


def _counted(members: Sequence[Member]) -> str:
    return "1 node needs" if len(members) == 1 else f"{len(members)} nodes need"

"""Where tuning records lie: beside the compiled kernels, which are this host's, this version's, this vector unit's."""

from collections.abc import Callable
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.kernels.compilation import kernel_cache
from bptcnn.kernels.unit import UNIT
from bptcnn.networks import Network
from bptcnn.precision import Precision
from bptcnn.profiling.autotuning import autotune, network_digest
from bptcnn.profiling.files import read_tuning, write_tuning
from bptcnn.profiling.host import cpu_name
from bptcnn.profiling.records import TuningRecord
from bptcnn.version import VERSION


def tuning_path(network: Network, batch_size: int, precision: Precision) -> Path:
    """Return where this host keeps a network's record. Threads do not count: results must not depend on them."""
    name, cache = f"tuning-{network_digest(network)}-{batch_size}-{precision}.toml", kernel_cache()
    return cache.find(name) or cache.store(lambda folder: folder / name)


def tuning_record(
    network: Network,
    batch_size: int,
    threads: int,
    precision: Precision = "float32",
    tell: Callable[[str], None] = lambda _: None,
) -> TuningRecord | None:
    """Return this host's record, measured with `threads` threads and kept where there is none; `tell` hears of that.

    None where memory is too small to compare two steps: rules it is, then.
    """
    path = tuning_path(network, batch_size, precision)
    if path.exists():
        try:
            record = read_tuning(path)
        except UserError as error:
            tell(f"tuning again: {error}")
        else:
            if fits(record, network, batch_size, precision):
                return record
            tell(f"tuning again: {path} is of another machine or network")
    try:
        record = autotune(network, batch_size, threads, precision, tell)
    except UserError as error:
        tell(f"not tuned: {error}")
        return None
    try:
        kernel_cache().store(lambda folder: write_tuning(folder / path.name, record))
    except UserError as error:
        tell(f"tuned for this once: {error}")
    return record


def fits(record: TuningRecord, network: Network, batch_size: int, precision: Precision) -> bool:
    """Tell whether a record is of this machine, this version, this network, batch size and precision."""
    here = cpu_name(), UNIT.name, VERSION, network_digest(network), batch_size, precision
    there = record.cpu, record.vector_unit, record.bptcnn, record.digest, record.batch_size, record.precision
    return here == there


def tuning_of(record: TuningRecord | None) -> Tuning:
    """Return a record's tuning; by rule where there is no record."""
    return BY_RULE if record is None else record.tuning

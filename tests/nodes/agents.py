"""Real agents on small problems: everything they need, and its end."""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from bptcnn.data import Samples
from bptcnn.data.content import digest
from bptcnn.memory import RunClock, WeightBuffer
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network
from bptcnn.nodes import (
    AgentConfiguration,
    Host,
    HostConfiguration,
    LocalConfiguration,
    LocalNode,
    Node,
    NodeGone,
    RemoteNode,
    SampleSource,
    SharedArray,
    Wire,
)
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import NodeEvent, Ready, Submitted, Update, Work

CLASSES = 3
TINY = Network((8, 8, 1), [Conv2D(4, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(CLASSES)], "tiny")
NEW = OptimizerState(0)
READY_SECONDS = 120.0  # an agent on a busy machine may have to wait for its turn
ORPHAN_SECONDS = 5.0  # what the design allows a node to outlive its coordinator


@dataclass
class Bench:
    """One agent, the weight set it merges into, and its samples."""

    node: Node
    buffer: WeightBuffer
    log: Path
    samples: int

    def work(self, epoch: int = 1, count: int | None = None, rate: float = 0.01, steps: int = 2) -> Work:
        """Work on the first `count` samples, over and over if there are fewer."""
        indices = np.arange(self.samples if count is None else count) % self.samples
        return Work(epoch, indices.astype(np.int32), rate, steps)


def problem(samples: int, network: Network, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Draw images whose brightness says their class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, network.classes, samples, np.int32)
    noise = random.integers(0, 40, (samples, *network.input_shape), np.uint8)
    shade = (labels * (200 // network.classes)).astype(np.uint8)
    return noise + shade[:, None, None, None], labels


@contextmanager
def agent(
    folder: Path,
    *,
    network: Network = TINY,
    samples: int = 64,
    batch_size: int = 8,
    speed: float = 1.0,
    update: Update = "agwu",
    labels: npt.NDArray[np.int32] | None = None,
    address: str | None = None,
    wire: Wire = "float32",
    momentum: float = 0.9,
    start: OptimizerState = NEW,
    weights: npt.NDArray[np.float32] | None = None,
) -> Iterator[Bench]:
    """Start an agent, through ssh if there is an `address`; at the end it is killed, whatever became of it."""
    images, drawn = problem(samples, network)
    with ExitStack() as stack:
        buffer = stack.enter_context(WeightBuffer.create(network.size, 1))
        buffer.store(network.initial_weights(0) if weights is None else weights)
        buffer.set_live(0, True)
        common = AgentConfiguration(
            node=0,
            name="node0",
            speed=speed,
            threads=1,
            network=network,
            batch_size=batch_size,
            precision="float32",
            momentum=momentum,
            weight_decay=0.0,
            update=update,
            staleness=None,
            heartbeat_seconds=0.1,
            first_step=start.step,
            usual_loss=start.usual_loss,
        )
        data = Samples(images, drawn if labels is None else labels)
        log = folder / "node0.log"
        node: Node
        if address is None:
            optimizer = OptimizerMemory.create(common.velocity_size)
            stack.callback(optimizer.close)
            optimizer.put(start)
            node = LocalNode(shared(common, data, buffer, optimizer, stack), log, optimizer)
        else:
            configuration = distant(common, data, wire, restores=start.velocity is not None)
            host = Host("node0", address, sys.executable)
            node = RemoteNode(host, configuration, buffer, data, log, velocity=start.velocity)
        stack.callback(node.kill)
        yield Bench(node, buffer, log, samples)


def shared(
    common: AgentConfiguration, data: Samples, buffer: WeightBuffer, optimizer: OptimizerMemory, stack: ExitStack
) -> LocalConfiguration:
    """Put the samples into shared memory, which the stack frees."""
    images, memory = SharedArray.put(data.images, "images")
    stack.callback(memory.close)
    labels, memory = SharedArray.put(data.labels, "labels")
    stack.callback(memory.close)
    clock = RunClock()
    stack.callback(clock.close)
    clock.start()
    where = {
        "clock_fd": clock.fd,
        "weights_fd": buffer.fd,
        "images": images,
        "labels": labels,
        "optimizer_fd": optimizer.fd,
    }
    return LocalConfiguration(**vars(common), nodes=1, **where)


def distant(common: AgentConfiguration, data: Samples, wire: Wire, restores: bool) -> HostConfiguration:
    """Have the samples sent: nothing else has them."""
    source = SampleSource(digest(data), "/nowhere", data.images.dtype.str, data.images.shape, None, 0)
    return HostConfiguration(**vars(common), samples=source, wire=wire, hands_over=True, restores=restores)


def wait_for(
    node: Node, wanted: Callable[[NodeEvent], bool], seconds: float = READY_SECONDS
) -> tuple[NodeEvent, list[NodeEvent]]:
    """Return the first event wanted, and all that came with and before it; NodeGone if the process ends first."""
    seen: list[NodeEvent] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([node], [], [], 0.5)[0]:
            seen += node.receive()
            for event in seen:
                if wanted(event):
                    return event, seen
    raise AssertionError(f"not within {seconds} s; only {[type(event).__name__ for event in seen]}")


def kind(*kinds: type) -> Callable[[NodeEvent], bool]:
    return lambda event: isinstance(event, kinds)


def ready(node: Node) -> None:
    wait_for(node, kind(Ready))


def submissions(node: Node, samples: int) -> list[Submitted]:
    """Wait until so many samples are submitted; return all submissions."""
    _, seen = wait_for(node, lambda event: isinstance(event, Submitted) and event.samples_committed >= samples)
    return [event for event in seen if isinstance(event, Submitted)]


def gone(node: Node, seconds: float = READY_SECONDS) -> str:
    """Wait for the process to end; return what NodeGone says."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        select.select([node], [], [], 0.5)
        try:
            node.receive()
        except NodeGone as error:
            return str(error)
    raise AssertionError(f"the node is still there after {seconds} s")


def has_ended(pid: int) -> bool:
    """Tell whether a process runs no more; one that nobody has waited for has ended too."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def await_end(pids: list[int], seconds: float = ORPHAN_SECONDS) -> list[int]:
    """Return those that still run after so many seconds."""
    deadline = time.monotonic() + seconds
    left = [pid for pid in pids if not has_ended(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if not has_ended(pid)]
    return left


def descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]

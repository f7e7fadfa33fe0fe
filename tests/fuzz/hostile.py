"""A host that lies, in a whole run: whatever it says, it is at most lost itself, and the run is trained to its end.

The real driver, coordinator and servant; its honest fellow nodes are stubs. What the host says is drawn when it says
it, most of it nearly right: what it was sent, and numbers that pass every check of their type.
"""

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fuzz.harness import Kind, Target, line
from fuzz.messages import head
from fuzz.mutation import NUMBERS, mutated
from fuzz.stubs import StubNode, stubbed
from fuzz.writing import json_text

import bptcnn.training.run as run_module
from bptcnn.data import Dataset, Samples
from bptcnn.errors import UserError
from bptcnn.memory import WeightBuffer
from bptcnn.networks import Network
from bptcnn.networks.layers import Dense, Flatten
from bptcnn.nodes import Host
from bptcnn.nodes.claims import Impossible
from bptcnn.nodes.codec import encode_event
from bptcnn.nodes.desk import NodeDesk
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.encoding import encode
from bptcnn.nodes.exchange import Committer
from bptcnn.nodes.frames import Frame, FrameError
from bptcnn.nodes.frames import Kind as FrameKind
from bptcnn.nodes.gate import Shut
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.servant import Servant
from bptcnn.outer import (
    Failed,
    Heartbeat,
    Message,
    NodeEvent,
    Pause,
    Paused,
    Ready,
    Refused,
    Resume,
    Trial,
    Tried,
    Work,
)
from bptcnn.profiling import NodeSpeed
from bptcnn.training import Observer
from bptcnn.training.checkpoint import Checkpoint
from bptcnn.training.members import Member
from bptcnn.training.settings import TrainSettings
from bptcnn.untrusted import parse_json, printable

NETWORK = Network((2, 2, 1), [Flatten(), Dense(3)], "tiny")
SAMPLES = 200
BATCH = 4
_BEAT_SECONDS = 0.25
_MOST_ACTS = 60  # after which the host only beats, or is silent
COUNTS = (0, 1, 2, 3, 4, 8, 16, 100, SAMPLES, 10**6, 2**31, 2**53)
FLOATS = (0.0, 5e-324, 1e-300, 1e-12, 1e-9, 1e-6, 1e-3, 0.5, 1.0, 4.0, 9.0, 19.0, 3600.0, 1e6, 1e9, 1e29)
HONEST = 2**32  # the first of some seeds of runs in which nobody lies


def tiny_data(count: int, source: str = "tiny") -> Dataset:
    """Grey images of 2x2, in 3 classes."""
    images = (np.arange(count * 4) % 251).astype(np.uint8).reshape(count, 2, 2, 1)
    labels = (np.arange(count) % 3).astype(np.int32)
    return Dataset(Samples(images, labels), Samples(images[:30], labels[:30]), 3, "tiny", source)


class Script:
    """What the host of one case is like; shared by its agents, those that come back included."""

    def __init__(self, draw: random.Random, honest: bool) -> None:
        self.draw = draw
        self.crude = draw.random() < 0.2
        self.lies = 0.0 if honest else draw.choice((0.1, 0.3, 0.7))
        self.beats = draw.choice(("none", "constant", "rising", "huge"))
        self.works = honest or draw.random() < 0.8
        self.left = 10_000 if honest else draw.randrange(5, _MOST_ACTS)
        self.said: list[str] = []


class HostileNode:
    """What the driver sees of a host: what it reports goes through the real desk and servant, as in RemoteNode."""

    pid = 7
    host = "evil"
    first_step = 0

    def __init__(
        self, index: int, member: Member, buffer: WeightBuffer, script: Script, update: Any, clock: Any
    ) -> None:
        self.name, self._node, self._script, self._clock = member.name, index, script, clock
        self._events: list[NodeEvent] = []
        self._bell = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        committer = self._committer = Committer(buffer, index, update)
        self._trained = 0
        samples = Samples(np.zeros((5, 2, 2, 1), np.uint8), np.zeros(5, np.int32))
        size = buffer.layout.parameters
        self._servant = Servant(index, committer, update, "float32", size, samples, self._tell, self._keep, size)
        self._kept: OptimizerState | None = None
        self._desk = NodeDesk(index, self._take, self._refuse, committer.updates)
        self._payload = encode("float32", np.full(size, 1e-3, np.float32))
        self._work: list[list[int]] = []
        self._owed: list[NodeEvent] = [Ready(index, 0.0)]
        self._paused = self._dead = self._refused = False
        self._version = -1  # of the weights that it was sent
        self.bytes_sent = self.bytes_received = 0
        self._acted_at = 0.0

    # ---- what the driver uses ----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._bell

    def send(self, message: Message) -> None:
        match message:
            case Work():
                self._servant.shipments.add(message)
                self._work.append([message.epoch, len(message.indices)])
            case Pause():
                self._paused = True
                self._servant.gate.close()
                self._tell(Paused(self._node, 0.0))
            case Resume():
                self._paused = False
                self._servant.gate.open()
            case Trial():
                self._owed.append(Tried(self._node, 0.0, 10 * BATCH, 0.1))
        self._ring()

    def receive(self) -> list[NodeEvent]:
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        if not self._dead:
            self._act()
        events, self._events[:] = list(self._events), []
        return events

    def optimizer_state(self) -> OptimizerState | None:
        return self._kept

    def kill(self) -> str:
        self._servant.gate.shut()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
        return ""

    def end(self, deadline: float) -> str:
        return self.kill()

    def _ring(self) -> None:
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _keep(self, state: OptimizerState) -> bool:
        self._kept = state
        return True

    # ---- what it says ------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        script, draw = self._script, self._script.draw
        if script.left <= 0:
            self._beat()
            return
        script.left -= 1
        lies = draw.random() < script.lies
        if self._owed:
            self._report(self._owed.pop(0), lies)
        elif lies and draw.random() < 0.5:
            said = (
                Ready(self._node, 0.0),
                Tried(self._node, 0.0, 9, 0.1),
                Refused(self._node, 0.0, BATCH, "it diverged"),
            )
            more = (Paused(self._node, 0.0), Heartbeat(self._node, 0.0, 8), Failed(self._node, 0.0, "I am tired"))
            self._report(draw.choice((*said, *said, *more)), draw.random() < 0.7)
        elif draw.random() < 0.1:
            self._hand_over(lies)
        elif self._work and not self._paused and script.works and (lies or not self._committer.pending()):
            self._submit(lies)
        else:
            self._report(Heartbeat(self._node, 0.0, self._trained), lies)
        self._ring()

    def _beat(self) -> None:
        """Four times a second of the run's clock, as the driver looks that often."""
        counts = {"constant": self._trained, "rising": self._trained + 1, "huge": self._trained + 10**9}
        if self._script.beats != "none" and self._clock.seconds - self._acted_at >= _BEAT_SECONDS:
            self._acted_at = self._clock.seconds
            self._report(Heartbeat(self._node, 0.0, min(counts[self._script.beats], 1 << 40)), False)
        self._ring_later()

    def _ring_later(self) -> None:
        """Have the driver come again, but not before its clock has gone on."""
        self._clock.seconds += _BEAT_SECONDS
        self._ring()

    def _report(self, event: NodeEvent, lies: bool) -> None:
        value: Any = encode_event(event)
        if lies:
            value = self._lie(value)
        text = json_text(value, self._script.draw if lies else None)
        self._script.said.append(text[:300])
        try:
            self._desk.report([parse_json(text)])
        except ValueError as error:  # the control server answers with it
            line(error)

    def _lie(self, value: dict[str, Any]) -> Any:
        """Change some of what a message says: crudely, to anything at all, or to numbers that might be."""
        draw = self._script.draw
        if self._script.crude and draw.random() < 0.3:
            return mutated(value, draw)
        names = [name for name in value if name not in ("type", "node", "time")]
        for name in draw.sample(names, min(len(names), draw.randint(1, 2))):
            if isinstance(value[name], float):
                value = {**value, name: draw.choice(NUMBERS if self._script.crude else FLOATS)}
            elif isinstance(value[name], int):
                near = (max(0, value[name] - 1), value[name] + 1)
                value = {**value, name: draw.choice(NUMBERS if self._script.crude else (*COUNTS, *near, *near))}
        return value

    def _submit(self, lies: bool) -> None:
        epoch, left = self._work[0]
        taken = min(left, 2 * BATCH)
        if self._version < 0 and not lies:
            self._serve(FrameKind.WEIGHTS, {}, False)
        meta = head(taken, epoch, max(0, self._version))
        if lies:
            meta = self._lie(meta)
        if self._serve(FrameKind.SUBMIT, meta, lies):
            self._work[0][1] -= taken
            if self._work[0][1] <= 0:
                del self._work[0]

    def _hand_over(self, lies: bool) -> None:
        """What it keeps for its next step: right, or of somebody else's steps, with a velocity that is none."""
        meta: dict[str, Any] = {"step": self.first_step + 1, "usual_loss": 1.0}
        self._serve(FrameKind.KEEP, self._lie(meta) if lies else meta, lies)

    def _serve(self, kind: FrameKind, meta: Any, lies: bool) -> bool:
        """Have the servant take one frame; return whether it did."""
        draw = self._script.draw
        payload = self._payload.copy()
        if lies and draw.random() < 0.2:
            payload.view(np.float32)[draw.randrange(payload.size // 4)] = draw.choice((np.nan, np.inf, 3e38, -1e20))
        text = json_text(meta, draw if lies else None)
        self._script.said.append(f"{kind.name} {text[:400]}")
        try:
            self._servant.serve(_Once(Frame(kind, _meta(text), payload), self))  # type: ignore[arg-type]
        except Shut:
            self._dead = True
        except (Impossible, Diverged, ValueError, FrameError) as error:  # as `RemoteNode._serve` has it
            self._refuse(line(error))
        except EOFError:
            return True
        return False

    def _take(self, event: NodeEvent) -> None:
        """As RemoteNode does."""
        match event:
            case Heartbeat():
                self._trained = max(self._trained, event.samples_trained)
                self._tell(Heartbeat(event.node, event.time, self._trained))
            case Paused():
                pass
            case _:
                self._tell(event)

    def _tell(self, event: NodeEvent) -> None:
        if not self._refused:
            self._refused = isinstance(event, Failed)
            self._events.append(event)

    def _refuse(self, reason: str) -> None:
        self._dead = True
        self._tell(Failed(self._node, 0.0, printable(reason, 1000)))


def _meta(text: str) -> dict[str, Any]:
    found = parse_json(text)
    if not isinstance(found, dict):
        raise FrameError("the meta of a frame is no JSON object")
    return found


class _Once:
    """A channel that gives one frame, then ends."""

    def __init__(self, frame: Frame, node: HostileNode) -> None:
        self._frames = [frame]
        self._node = node
        self.bytes_sent = self.bytes_received = 0

    def receive(self, limits: Any) -> Frame:
        if not self._frames:
            raise EOFError
        return self._frames.pop()

    def send(self, kind: Any, meta: Any = None, payload: Any = b"") -> None:
        if meta and "version" in meta:
            self._node._version = meta["version"]


class Runs(Target):
    """Whole runs of two honest nodes and one that is not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "run"
        self.said: list[str] = []

    def valid(self) -> Sequence[int]:
        return range(HONEST, HONEST + 4)

    def draw(self, draw: random.Random) -> int:
        return draw.randrange(2**32)

    def describe(self, given: int) -> str:
        beats = [text for text in self.said if '"Heartbeat"' in text]
        others = [text for text in self.said if text not in beats[-_MOST_ACTS:]]
        return " | ".join([*others[-12:], *beats[-3:]])

    def take(self, given: int) -> str | None:
        draw = random.Random(given)
        script = Script(draw, HONEST <= given < HONEST + 4)
        self.said = script.said
        update = draw.choice(("agwu", "agwu", "sgwu"))
        partition = draw.choice(("idpa", "uniform"))
        settings = TrainSettings(
            (1.0, 0.5), update=update, partition=partition, epochs=2, batch_size=BATCH, threads=1, autotune=False,
            local_steps=2, measure=draw.random() < 0.5,
        )  # fmt: skip
        members = [Member(f"node{i}", s, 1, NodeSpeed(1000.0, 2.0)) for i, s in enumerate(settings.nodes)]
        members.append(Member("evil", 1.0, 1, NodeSpeed(1500.0, 2.0), Host("evil", "evil", "/p")))

        def host(index: int, member: Member, buffer: Any, batch: int, update: Any, clock: Any) -> Any:
            if script.left <= 0 and draw.random() < 0.5:  # it is back, and honest
                return StubNode(index, member, buffer, batch, update, clock)
            return HostileNode(index, member, buffer, script, update, clock)

        dataset = tiny_data(SAMPLES)
        start = Checkpoint(NETWORK, NETWORK.initial_weights(0), 0)
        shutil.rmtree(self._folder, ignore_errors=True)
        with stubbed(host), mock.patch.object(run_module, "gather", return_value=tuple(members)):
            try:
                found = run_module.train_run(
                    NETWORK, dataset, settings, start, self._folder, False, Observer(), 0.0
                ).summary
            except UserError as error:
                raise AssertionError(f"the run ended: {line(error)}") from error
        assert found.outcome == "completed"
        assert found.images_trained == 2 * SAMPLES
        (evil,) = (node for node in found.nodes if node.name == "evil")
        lost = [node.name for node in found.nodes if node.lost is not None and node is not evil]
        assert not lost, f"{lost} were lost by what another node said"
        return None if evil.lost is None else line(evil.lost)


@contextmanager
def _open(folder: Path) -> Iterator[Target]:
    yield Runs(folder)


KINDS = (Kind("hostile-run", 40, _open),)

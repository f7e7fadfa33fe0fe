"""What a host answers when it is looked at: its version, its facts, its last words; and what the run makes of them."""

import json
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from fuzz.harness import Kind, Target, line
from fuzz.mutation import draw_value, mutated, scrambled
from fuzz.texts import encoded
from fuzz.writing import json_text

from bptcnn.nodes import Host, HostReport, Question
from bptcnn.nodes import preflight as preflight_module
from bptcnn.nodes.conversation import Ended, Flooded, Silent
from bptcnn.nodes.preflight import preflight
from bptcnn.nodes.probe import package_versions
from bptcnn.nodes.ssh import Resolved
from bptcnn.outer import RunSettings
from bptcnn.profiling import NodeSpeed
from bptcnn.training.members import UNKNOWN, Member, joined_speed, obstacle, profiles

HOST = Host("far", "user@far", "/opt/python")
QUESTION = Question("cnn2", 64, (28, 28, 1))
WORDS = (
    *(b"", b"Permission denied (publickey).", b"ssh: Could not resolve hostname far: Name or service not known"),
    *(
        b"Traceback (most recent call last):\n  File\nModuleNotFoundError: No module named 'bptcnn'",
        b"\x1b]0;x\x07\xff\n",
    ),
    *(
        b"@@@@ REMOTE HOST IDENTIFICATION HAS CHANGED @@@@\n  ssh-keygen -f '/h' -R 'far'\n",
        b"remote port forwarding failed",
    ),
)


def facts() -> dict[str, Any]:
    """Return what the probe tells of a host that can train."""
    return {
        "executable": "/opt/python",
        "versions": package_versions(),
        "hostname": "far",
        "uid": 1000,
        "cpu": "A CPU",
        "aes": True,
        "cores": 4,
        "memory": 8 << 30,
        "disk": 50 << 30,
        "cache": "/home/u/.cache/bptcnn",
        "warm": True,
        "lacks_bf16": "",
        "speed": [1500.0, 12.0],
        "troubles": {},
    }


@dataclass(frozen=True)
class Answer:
    """What comes from a host: the line with its version, its facts, and how its process ends."""

    version: bytes
    facts: bytes
    code: int | None = 0
    words: bytes = b""
    error: type[Exception] | None = None  # instead of the facts


class Talk:
    """A conversation with a host that gives one answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting = bytearray()

    def send(self, data: bytes, deadline: float) -> None:
        match data[:1]:
            case b"p" | b"u":
                self._waiting += data[:1]
            case b"d":
                self._waiting += bytes(struct.unpack("!I", data[1:5])[0])
            case b"r":
                self._waiting += struct.pack("!I", len(self._answer.facts)) + self._answer.facts

    def receive(self, size: int, deadline: float) -> bytes:
        if self._answer.error is not None and len(self._waiting) > 4:
            raise self._answer.error
        if len(self._waiting) < size:
            raise Ended
        found = bytes(self._waiting[:size])
        del self._waiting[:size]
        return found

    def receive_line(self, mark: bytes, deadline: float) -> bytes:
        return self._answer.version

    def code(self, deadline: float) -> int | None:
        return self._answer.code

    @property
    def words(self) -> str:
        return self._answer.words.decode(errors="replace")

    def close(self) -> None:
        pass


class Answers(Target):
    """Hosts that are looked at before a run; one that counts as usable must not end the run that begins with it."""

    def valid(self) -> Sequence[Answer]:
        return [Answer(b"[3, 11, 7]", json.dumps(facts()).encode())]

    def draw(self, draw: random.Random) -> Answer:
        (honest,) = self.valid()
        if draw.random() < 0.1:
            version = scrambled(honest.version, draw)
            return Answer(version, honest.facts)
        if draw.random() < 0.1:
            error = draw.choice((None, Ended, Silent, Flooded))
            words = draw.choice(WORDS)
            words = words if draw.random() < 0.5 else scrambled(words, draw)
            return Answer(honest.version, b"", draw.choice((None, 0, 1, 2, 126, 127, 255, -9, -15)), words, error)
        if draw.random() < 0.3:
            told = facts()
            told[draw.choice(("speed", "memory", "cores", "disk", "uid"))] = draw_value(draw)
            if draw.random() < 0.5:
                told["speed"] = [draw_value(draw), draw_value(draw)]
        else:
            told = mutated(facts(), draw)
        text = encoded(json_text(told, draw))
        return Answer(honest.version, text if draw.random() < 0.9 else scrambled(text, draw))

    def take(self, given: Answer) -> str | None:
        starting = Answer(given.version, given.facts, 0)

        with (
            mock.patch.object(preflight_module, "_start", return_value=Talk(given)),
            mock.patch.object(preflight_module, "_run", return_value=Talk(starting)),  # which forwards a socket
            mock.patch.object(preflight_module, "resolve", return_value=Resolved()),  # asks ssh, and of a name of ours
        ):
            (report,) = preflight([HOST], QUESTION)
        shown = [line(f"{problem.what}: {problem.remedy}") for problem in report.problems]
        assert all(len(text) < 2000 for text in shown), max(shown, key=len)[:300]
        reason, _ = obstacle(report, same_python=False)
        if reason is not None:
            return line(reason)
        self._begin(report)
        return None

    def _begin(self, report: HostReport) -> None:
        """What a run does with a host that it takes in, at its start and later."""
        known = report.facts
        assert known is not None
        assert known.cpu.isprintable()
        assert known.hostname.isprintable()
        bandwidth = min(known.link.upload, known.link.download) if known.link else None
        far = Member("far", 1.0, 0, known.speed or UNKNOWN, HOST, bandwidth=bandwidth)
        here = Member("node0", 1.0, 1, NodeSpeed(1000.0, 2.0))
        for members in ([here, far], [far]):
            RunSettings(profiles(members), 100, 1, 8, 2, (0.1,))
        own = profiles([here])
        RunSettings((*own, type(own[0])("far", joined_speed([here], own, far))), 100, 1, 8, 2, (0.1,))


@contextmanager
def _open(folder: Path) -> Iterator[Target]:
    yield Answers()


KINDS = (Kind("host-answer", 80, _open),)

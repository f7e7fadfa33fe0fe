"""Looking at hosts before a run: can each be reached, is what training needs there, how far away is it.

All hosts at once, as far as the machine that leads to them lets us in (`doors`), each within deadlines that follow from
its `timeout`. Nothing that is started here outlives the call, here or there.
"""

import contextlib
import json
import os
import re
import secrets
import select
import statistics
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from bptcnn.descriptors import require_descriptors
from bptcnn.errors import UserError
from bptcnn.nodes import probe
from bptcnn.nodes.conversation import Cancelled, Conversation, Ended, Flooded, Silent
from bptcnn.nodes.doors import Turn, door_to, pauses
from bptcnn.nodes.findings import HostFacts, Link, Question, find_problems, read_facts, too_old
from bptcnn.nodes.hosts import Host
from bptcnn.nodes.sockets import master_socket, wait_for_socket
from bptcnn.nodes.ssh import (
    ONE_THREAD,
    QUIET_SHELL,
    Problem,
    Resolved,
    aes_first,
    by_hand,
    explain,
    forward_command,
    longer,
    resolve,
    ssh_command,
    ssh_environment,
)
from bptcnn.nodes.ssh_words import last_words, turned_away
from bptcnn.threads import starting_threads
from bptcnn.untrusted import Malformed, parse_json

_MOST_AT_ONCE = 64  # hosts
_DESCRIPTORS = 8  # for each: both ends of three pipes, and a pipe by which a process that starts says why it does not
_LATER_SECONDS = 1.0  # than ssh, which gives up first and says why
_LINK_SECONDS = 8.0
_PINGS = 7
_FIRST_BYTES, _MOST_BYTES = 1 << 14, 1 << 22  # of a transfer that is timed; 4 MB are more than the buffers on the way
_LEAST_SECONDS = 1e-5  # of a transfer: who answers before it has all is no faster than that
_TRANSFER_SECONDS = 1.0  # no transfer begins that is expected to take longer
_END_SECONDS = 2.0  # between the end of a process's output and its own
_MOST_FACTS = 1 << 20  # bytes
_REMOVE = "import os, sys; sys.stdin.read(1); os.unlink(sys.argv[1])"  # sshd leaves the sockets that it listened on
_ROOT = Path(__file__).parent.parent.parent  # where this very package is imported from


@dataclass(frozen=True)
class HostReport:
    """What was found out about a host: facts if it answered, and what is wrong or could be better.

    `options`: further ones of ssh, with which a run's connection is faster.
    """

    host: Host
    facts: HostFacts | None
    problems: tuple[Problem, ...]
    options: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the host can train."""
        return self.facts is not None and not any(problem.hard for problem in self.problems)


T = TypeVar("T")


class _Failed(Exception):
    """Why no more can be found out about a host."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class _TurnedAway(_Failed):
    """The server may have had no room for a connection that has not logged in yet."""


def preflight(
    hosts: Sequence[Host],
    question: Question | None = None,
    told: Callable[[HostReport], None] | None = None,
) -> list[HostReport]:
    """Return what is found out about each host, in their order; 64 are looked at at a time.

    With a question the facts have the speed of a node there. `told` gets each report as it comes, in this thread.
    Raise UserError where ssh cannot be started at all. An exception from outside (Ctrl-C) ends all inspections.
    """
    if not hosts:
        return []
    for host in hosts:
        if not host.local:
            ssh_command(host, ())  # a wrong BPTCNN_SSH is no host's problem
    here = probe.package_versions()
    at_once = min(len(hosts), _MOST_AT_ONCE)
    require_descriptors(_DESCRIPTORS * at_once + 2, f"to look at {at_once} hosts needs")
    cancel, cancelling = os.pipe()
    try:
        with ThreadPoolExecutor(at_once, "preflight") as pool:
            try:
                with starting_threads():
                    futures = [pool.submit(_report, host, question, here, cancel) for host in hosts]
                for future in as_completed(futures):
                    report = future.result()
                    if told is not None:
                        told(report)
            except BaseException:
                os.write(cancelling, b"!")
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]
    finally:
        os.close(cancel)
        os.close(cancelling)


def _report(host: Host, question: Question | None, here: Mapping[str, str | None], cancel: int) -> HostReport:
    """Look at one host; that it does not do something in time is a problem like any other."""
    if question is not None and host.threads is not None:
        question = replace(question, threads=host.threads)
    facts: HostFacts | None = None
    problems: tuple[Problem, ...] = ()
    options: tuple[str, ...] = ()
    resolved = Resolved() if host.local else resolve(host)
    try:
        facts = _facts(host, resolved, question, cancel)
        problems = find_problems(host, facts, here, "float32" if question is None else question.precision)
        if not host.local and not any(problem.hard for problem in problems):
            _opened(host, resolved, cancel, lambda _: _forward_a_socket(host, resolved, cancel))
            if facts.aes and probe.has_aes():
                options = aes_first(resolved)
    except _Failed as failed:
        problems = (failed.problem, *problems)
    return HostReport(host, facts, problems, options)


def _opened(host: Host, resolved: Resolved, cancel: int, connect: Callable[[Turn], T]) -> T:
    """Return what `connect` makes of a turn; again and again where the server has no room, for the host's `timeout`."""
    door = door_to(resolved.door)
    given_up = None
    for pause in pauses():
        turn = door.enter(host.timeout, lambda: _is_ready(cancel, 0.0))
        if turn is None:
            raise Cancelled
        given_up = given_up or time.monotonic() + host.timeout
        try:
            return connect(turn)
        except _TurnedAway as failed:
            turn.leave(turned_away=True)
            if time.monotonic() + pause > given_up:
                raise
            if _is_ready(cancel, pause):
                raise Cancelled from failed
        finally:
            turn.leave()
    raise AssertionError("pauses end")


def _is_ready(cancel: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(cancel, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def _facts(host: Host, resolved: Resolved, question: Question | None, cancel: int) -> HostFacts:
    """Return what the host tells about itself, and how far away it is."""
    if host.local:
        return _told(host, None, question, cancel)
    return _opened(host, resolved, cancel, lambda turn: _told(host, turn, question, cancel))


def _told(host: Host, turn: Turn | None, question: Question | None, cancel: int) -> HostFacts:
    mark, source = secrets.token_hex(16), Path(str(probe.__file__)).read_bytes()
    started = time.monotonic()
    arguments = ["-c", probe.BOOTSTRAP, mark, str(len(source))]
    with contextlib.closing(_start(host, arguments, cancel)) as talk:
        step = "did not answer"
        try:
            until = started + host.timeout + _LATER_SECONDS
            talk.send(source, until)
            version = _version(talk.receive_line(mark.encode(), until))
            if turn is not None:
                turn.leave()
            if version < probe.OLDEST_SYNTAX:
                raise _Failed(too_old(host, ".".join(map(str, version))))
            step = "answered, but its link stalled"
            link = None if host.local else _measure(talk, time.monotonic() + _LINK_SECONDS)
            step = "answered, but did not tell about itself"
            return read_facts(_ask(talk, question, time.monotonic() + host.timeout), version, link)
        except Silent:
            what = f"{step} (given up after {time.monotonic() - started:.1f} s)"
            raise _Failed(Problem(what, f"{_see(host)}; if it is slow, {longer(host)}", passing=True)) from None
        except Flooded:
            raise _Failed(Problem("prints without end", QUIET_SHELL)) from None
        except Ended:
            raise _ending(host, talk) from None
        except Malformed as error:
            raise _Failed(Problem(f"answered with something else: {error}", _see(host))) from None


def _start(host: Host, arguments: Sequence[str], cancel: int) -> Conversation:
    if not host.local:
        return _run(ssh_command(host, arguments), cancel)
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": path}
    try:
        return Conversation([sys.executable, *arguments], cancel, environment)
    except OSError as error:
        raise UserError(f"cannot run {error.filename or 'a process'}: {error.strerror or error}") from None


def _run(command: Sequence[str], cancel: int) -> Conversation:
    try:
        return Conversation(command, cancel, ssh_environment())
    except OSError as error:
        what = f"cannot run {error.filename or 'a process'}: {error.strerror or error}"
        raise UserError(f"{what}: install OpenSSH's client, or set BPTCNN_SSH to its command line") from None


def _see(host: Host) -> str:
    if host.local:
        return "see what keeps this machine busy"
    return f"see whether this answers: {by_hand(host, host.python, '--version')}"


def _ending(host: Host, talk: Conversation) -> _Failed:
    """Return why a process has ended that was to talk with us."""
    code = talk.code(time.monotonic() + _END_SECONDS)
    if host.local:
        return _Failed(Problem(f"{sys.executable} failed: {last_words(talk.words)}", "reinstall bptcnn"))
    if code is None:
        return _Failed(Problem("closed its output and stayed", _see(host), passing=True))
    return _unreached(host, code, talk.words)


def _unreached(host: Host, code: int, words: str) -> _Failed:
    problem = explain(host, code, words)
    return _TurnedAway(problem) if turned_away(code, words) else _Failed(problem)


def _version(line: bytes) -> tuple[int, int, int]:
    match = re.fullmatch(rb"\[(\d{1,4}), (\d{1,4}), (\d{1,4})\]", line.strip())
    if match is None:
        raise Malformed("no version")
    major, minor, micro = map(int, match.groups())
    return major, minor, micro


def _ask(talk: Conversation, question: Question | None, deadline: float) -> object:
    asked = json.dumps(None if question is None else asdict(question)).encode()
    talk.send(b"r" + struct.pack("!I", len(asked)) + asked, deadline)
    (size,) = struct.unpack("!I", talk.receive(4, deadline))
    if size > _MOST_FACTS:
        raise Malformed(f"{size} bytes")
    return parse_json(talk.receive(size, deadline), _MOST_FACTS)


def _measure(talk: Conversation, deadline: float) -> Link:
    """Time round trips of a byte, and transfers that grow until they take long enough to be measured."""
    payload = os.urandom(_MOST_BYTES)  # random: ssh may compress

    def ping() -> None:
        talk.send(b"p", deadline)
        talk.receive(1, deadline)

    def upload(size: int) -> None:
        talk.send(b"u" + struct.pack("!I", size) + payload[:size], deadline)
        talk.receive(1, deadline)

    def download(size: int) -> None:
        talk.send(b"d" + struct.pack("!I", size), deadline)
        talk.receive(size, deadline)

    latency = statistics.median(_seconds(ping) for _ in range(_PINGS))
    return Link(latency, _rate(upload, latency), _rate(download, latency))


def _seconds(action: Callable[..., None], *arguments: int) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def _rate(transfer: Callable[[int], None], latency: float) -> float:
    """Return bytes per second, the round trip that each transfer has besides not counted."""
    size = _FIRST_BYTES
    while True:
        taken = _seconds(transfer, size)
        if 4 * size > _MOST_BYTES or 4 * taken > _TRANSFER_SECONDS:
            return size / max(taken - latency, taken / 2, _LEAST_SECONDS)
        size *= 4


def _forward_a_socket(host: Host, resolved: Resolved, cancel: int) -> None:
    """Fail where the host does not let us have a socket there that leads here, which training needs."""
    there = f"/tmp/bptcnn-check-{secrets.token_hex(8)}.sock"
    forwards, arguments = [(there, os.devnull)], ["-c", _REMOVE, there]
    deadline = time.monotonic() + host.timeout + _LATER_SECONDS
    with contextlib.ExitStack() as stack:
        if resolved.forwards:
            master = stack.enter_context(master_socket())
            talk = stack.enter_context(contextlib.closing(_run(ssh_command(host, arguments, master=master), cancel)))
            if wait_for_socket(master, deadline, lambda: talk.ended or _is_ready(cancel, 0.0)):
                command = forward_command(host, master, forwards)
                asking = stack.enter_context(contextlib.closing(_run(command, cancel)))
                if asking.code(deadline) != 0:
                    raise _Failed(explain(host, 255, asking.words))
        else:
            talk = stack.enter_context(contextlib.closing(_run(ssh_command(host, arguments, forwards), cancel)))
        with contextlib.suppress(Ended, Silent):
            talk.send(b"!", deadline)
        code = talk.code(deadline)
        if code is None:
            remedy = f"{_see(host)}; if it is slow, {longer(host)}"
            raise _Failed(Problem("a second connection did not answer", remedy, passing=True))
        if code != 0:
            raise _unreached(host, code, talk.words)

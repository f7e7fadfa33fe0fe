"""A node's log: everything that is printed, as long as it is little; the beginning and the end of what is much."""

import os
from pathlib import Path

import pytest

from bptcnn.nodes import node_log
from bptcnn.nodes.node_log import MOST_BYTES, NodeLog


def logged(path: Path, *pieces: bytes, flooded: list[str] | None = None) -> bytes:
    """Print pieces as a process does; return what `close` does."""
    log = NodeLog(path, "node", (lambda: flooded.append("flooded")) if flooded is not None else None)
    end = os.dup(log.fileno())
    log.begin()
    for piece in pieces:
        left = memoryview(piece)
        while left:
            left = left[os.write(end, left) :]
    os.close(end)
    tail = log.close()
    assert log.close() == tail
    return tail


def test_what_is_printed_is_in_the_file_and_its_end_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert logged(path, b"one\n", b"two\n") == b"one\ntwo\n"
    assert logged(path, b"again\n") == b"again\n", "of this process only"
    assert path.read_bytes() == b"one\ntwo\nagain\n"
    assert logged(path) == b""


def test_of_what_is_much_beginning_and_end_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_log, "_SLOW_SECONDS", 0.0)
    path, flooded = tmp_path / "log", []
    lines = [b"line %07d\n" % number for number in range(500_000)]  # 6.5 MB
    for _ in range(2):
        logged(path, b"first\n", *(b"".join(lines[k : k + 1000]) for k in range(0, len(lines), 1000)), flooded=flooded)
        content = path.read_bytes()
        assert len(content) <= MOST_BYTES
        assert content.startswith(b"first\nline 0000000\nline 0000001\n")
        assert content.endswith(b"line 0499998\nline 0499999\n")
        assert b"\n[... the log was too long: what stood here is left out ...]\nline " in content
    assert flooded == ["flooded"] * 2, "told once each"


def test_one_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_log, "_SLOW_SECONDS", 0.0)
    path = tmp_path / "log"
    logged(path, b"y" * (3 << 20))
    assert path.stat().st_size <= MOST_BYTES


def test_a_process_that_holds_its_end_does_not_hold_up_the_close(tmp_path: Path) -> None:
    log = NodeLog(tmp_path / "log", "node")
    end = os.dup(log.fileno())
    log.begin()
    os.write(end, b"last words\n")
    assert log.close() == b"last words\n"
    os.close(end)


def test_a_full_disk_keeps_nobody_waiting(tmp_path: Path) -> None:
    full = tmp_path / "log"
    full.symlink_to("/dev/full")
    assert logged(full, b"x" * 100_000)[-3:] == b"xxx"


def test_a_file_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        NodeLog(tmp_path / "no" / "log", "node")

"""The owner of shared memory: what it hands out, what it leaves behind (nothing), and how it refuses."""

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bptcnn.available import available_bytes
from bptcnn.errors import UserError
from bptcnn.memory import SharedMemory

NAME = f"bptcnn-test-{os.getpid()}"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped() -> bool:
    return f"memfd:{NAME}" in Path("/proc/self/maps").read_text()


def test_views_share_the_memory_and_start_at_zero() -> None:
    with SharedMemory.create(4096, NAME) as memory:
        whole = memory.view(np.uint8, (4096,))
        assert not whole.any()
        part = memory.view(np.float32, (3, 5), offset=64)
        part[:] = 1
        assert np.count_nonzero(whole) == 2 * part.size
        assert memory.view(np.int64, (0,), offset=4096).size == 0


@pytest.mark.parametrize(("shape", "offset"), [((1025,), 0), ((1,), 4096), ((1,), 2), ((1,), -4)])
def test_a_view_outside_or_unaligned_is_refused(shape: tuple[int, ...], offset: int) -> None:
    with SharedMemory.create(4096, NAME) as memory, pytest.raises(ValueError, match="array"):
        memory.view(np.float32, shape, offset)


def test_close_leaves_nothing_and_may_be_repeated() -> None:
    before = open_descriptors()
    memory = SharedMemory.create(1 << 20, NAME)
    view = memory.view(np.int64, (8,))
    view[:] = 7
    assert mapped()
    assert not [name for name in os.listdir("/dev/shm") if NAME in name]
    del view
    memory.close()
    memory.close()
    assert memory.closed
    assert open_descriptors() == before
    assert not mapped()
    with pytest.raises(ValueError, match="closed"):
        memory.view(np.int64, (8,))


def test_a_view_may_outlive_its_owner() -> None:
    memory = SharedMemory.create(4096, NAME)
    view = memory.view(np.int64, (8,))
    memory.close()
    view[:] = 3
    assert view.sum() == 24
    del view
    assert not mapped()


def test_a_forgotten_owner_is_released() -> None:
    before = open_descriptors()
    memory = SharedMemory.create(4096, NAME)
    del memory
    gc.collect()
    assert open_descriptors() == before
    assert not mapped()


def test_nobody_can_shrink_the_memory_under_a_view() -> None:
    with SharedMemory.create(8192, NAME) as memory, pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 4096)


CHILD = """
import os, signal, sys
import numpy as np
from bptcnn.memory import SharedMemory
memory = SharedMemory.attach(int(sys.argv[1]), 4096)
assert not os.get_inheritable(memory.fd)
numbers = memory.view(np.int64, (4,))
numbers[1] = numbers[0] + 1
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_attaches_by_descriptor_and_its_kill_harms_nothing() -> None:
    with SharedMemory.create(4096, NAME) as memory:
        numbers = memory.view(np.int64, (4,))
        numbers[0] = 41
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(memory.fd)], pass_fds=[memory.fd], capture_output=True, text=True
        )
        assert child.returncode == -9, child.stderr
        assert list(numbers) == [41, 42, 0, 0]


def test_attaching_to_too_little_memory_is_refused() -> None:
    before = open_descriptors()
    with SharedMemory.create(4096, NAME) as memory, pytest.raises(ValueError, match="holds 4096 bytes"):
        SharedMemory.attach(os.dup(memory.fd), 8192)
    assert open_descriptors() == before


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        SharedMemory.create(0, NAME)


def test_more_than_is_available_is_the_users_error() -> None:
    before = open_descriptors()
    with pytest.raises(UserError, match=r"need [\d,]+ MiB, available [\d,]+ MiB") as caught:
        SharedMemory.create(available_bytes() + (1 << 40), NAME)
    assert "\n" not in str(caught.value)
    assert open_descriptors() == before


def test_memory_that_goes_between_look_and_use_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    before = open_descriptors()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match="need 1 MiB"):
        SharedMemory.create(4096, NAME)
    assert open_descriptors() == before

"""Shared memory without names: the one class that owns a mapping.

The memory is a memfd: it has no entry in any file system, a child process gets it by descriptor (`pass_fds`), and the
kernel frees it with its last descriptor or mapping. So nothing can be left behind, whatever is killed when.

Guarantees
- Every page exists when `create` returns, those beyond its `backed` when `back` does, and the size is sealed: no access
  to them ends in SIGBUS.
- A view keeps the mapping alive, so a view that outlives `close` is still valid memory; the mapping goes with it.
"""

import errno
import fcntl
import mmap
import os
import weakref
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from bptcnn.available import available_bytes
from bptcnn.errors import UserError

Scalar = TypeVar("Scalar", bound=np.generic)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MIB = 1 << 20


class SharedMemory:
    """Owner of one piece of shared memory: its descriptor, its mapping and the views of it."""

    def __init__(self, fd: int, size: int) -> None:
        """Map `size` bytes of the descriptor `fd`; use `create` or `attach`."""
        self.fd = fd
        self.size = size
        mapping = mmap.mmap(fd, size)
        self._mapping: mmap.mmap | None = mapping
        self._release = weakref.finalize(self, _release, mapping, fd)

    @classmethod
    def create(cls, size: int, name: str, backed: int | None = None) -> Self:
        """Allocate `size` bytes, all zero, or only the first `backed` of them; `name` is only what /proc shows.

        Raises UserError if this machine, or this process's cgroup, has less memory than that to give.
        """
        if size < 1:
            raise ValueError(f"shared memory {name!r}: size must be at least 1 byte, got {size}")
        backed = size if backed is None else backed
        _require(backed, available_bytes(), name)
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, backed)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, size)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ENOMEM, errno.ENOSPC, errno.EFBIG):
                raise _too_little(backed, available_bytes(), name) from None
            raise
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, size: int) -> Self:
        """Map the memory behind an inherited descriptor, which is this class's from here on, to close if it fails too.

        Raises ValueError if the memory is smaller than `size` bytes.
        """
        actual = os.fstat(fd).st_size
        if actual < size:
            os.close(fd)
            raise ValueError(f"descriptor {fd} holds {actual} bytes, expected {size}")
        os.set_inheritable(fd, False)
        return cls(fd, size)

    def back(self, begin: int, end: int, name: str) -> None:
        """Allocate what is not allocated yet of bytes `begin` to `end`; UserError if there is too little memory."""
        if self._mapping is None:
            raise ValueError("the shared memory is closed")
        _require(end - begin, available_bytes(), name)
        try:
            os.posix_fallocate(self.fd, begin, end - begin)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENOSPC):
                raise _too_little(end - begin, available_bytes(), name) from None
            raise

    def view(self, dtype: type[Scalar], shape: tuple[int, ...], offset: int = 0) -> npt.NDArray[Scalar]:
        """Return a writable array over the memory that starts `offset` bytes in.

        Raises ValueError if it would not lie within the memory, is not aligned, or the memory is closed.
        """
        if self._mapping is None:
            raise ValueError("the shared memory is closed")
        count = int(np.prod(shape, dtype=np.int64))
        itemsize = np.dtype(dtype).itemsize
        if offset < 0 or offset % itemsize or offset + count * itemsize > self.size:
            raise ValueError(f"no aligned {np.dtype(dtype)} array {shape} at byte {offset} of {self.size}")
        return np.frombuffer(self._mapping, dtype, count, offset).reshape(shape)

    @property
    def closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._mapping is None

    def close(self) -> None:
        """Close the descriptor and unmap the memory, or leave the mapping to the last view; idempotent."""
        self._mapping = None
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require(size: int, available: int, name: str) -> None:
    if size > available:
        raise _too_little(size, available, name)


def _too_little(size: int, available: int, name: str) -> UserError:
    return UserError(
        f"shared memory for {name}: need {-(-size // _MIB):,} MiB, available {available // _MIB:,} MiB; "
        "use fewer nodes, a smaller network, or free memory"
    )


def _release(mapping: mmap.mmap, fd: int) -> None:
    try:
        mapping.close()
    except BufferError:  # a view lives on, and the mapping with it
        pass
    finally:
        os.close(fd)

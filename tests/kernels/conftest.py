"""One executor for all tests of kernels: they are about arithmetic, not about threads."""

from collections.abc import Iterator

import pytest

from bptcnn.inner.executor import Executor


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    """Two workers, so that per-worker scratch is told apart."""
    shared = Executor(2)
    yield shared
    shared.close()

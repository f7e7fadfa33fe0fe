"""What tests of whole steps share."""

from collections.abc import Iterator

import pytest

from bptcnn.inner.executor import Executor


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """Three workers share one step's buffers."""
    made = Executor(3)
    yield made
    made.close()

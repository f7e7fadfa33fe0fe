"""Every test leaves the process as it found it: no new threads, child processes, descriptors or shared memory.

Warnings are errors (`filterwarnings` in pyproject.toml). Property tests take their number of examples from the profile
in use: "default", "ci" (where CI is set; the same examples each time), or "brief" (--hypothesis-profile=brief).
Where examples are cheap and shapes many, a test takes a multiple of that: `settings().max_examples`.
"""

import faulthandler
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from left_behind import KINDS, left_over

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=SLOW_IS_FINE)
settings.register_profile(
    "ci", settings.get_profile("default"), derandomize=True, database=None, print_blob=True, max_examples=100
)
settings.register_profile("brief", settings.get_profile("default"), derandomize=True, database=None, max_examples=6)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config: pytest.Config) -> None:
    """Tracebacks of crashes, and signals that have their effect, here and in the processes that tests start."""
    if not faulthandler.is_enabled():
        faulthandler.enable()
    os.environ["PYTHONFAULTHANDLER"] = "1"
    # tests interrupt programs, which inherit what is ignored here: SIGINT in a shell's background, SIGHUP under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail the test that leaves a thread, a child process, a descriptor or named shared memory behind."""
    before = {kind: look() for kind, look in KINDS.items()}
    yield
    left = left_over(before)
    if left:
        lines = [f"{kind}: {', '.join(sorted(found))}" for kind, found in left.items()]
        pytest.fail("left behind: " + "; ".join(lines), pytrace=False)

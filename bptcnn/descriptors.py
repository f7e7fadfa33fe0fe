"""Descriptors: as many as will be needed, or one line before anything is started."""

import os
import resource

from bptcnn.errors import UserError

SPARE = 32  # for what is open for a moment: files that are written, fonts of the report, pipes to what is being started


def descriptor_limits() -> tuple[int, int]:
    """Return the soft and the hard limit of this process; what is not limited by us is by the system, far beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 30
    return (most if soft == resource.RLIM_INFINITY else soft, most if hard == resource.RLIM_INFINITY else hard)


def raise_descriptor_limit(more: int) -> int:
    """Make room for `more` descriptors beside those that are open, as far as the hard limit goes.

    Return how many lack.
    """
    needed = len(os.listdir("/proc/self/fd")) + more + SPARE
    soft, hard = descriptor_limits()
    if needed > soft:
        try:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (min(needed, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
        except (OSError, ValueError):  # the system's own limit is lower
            return needed - soft
    return max(0, needed - hard)


def require_descriptors(more: int, what: str) -> None:
    """Make room for `more` descriptors, which `what` needs; raise UserError where the hard limit does not allow it."""
    lacking = raise_descriptor_limit(more)
    if lacking:
        limit = descriptor_limits()[1]
        raise UserError(
            f"too few file descriptors: {what} {more + SPARE}, {lacking} more than the limit of {limit} leaves; "
            "raise it (ulimit -Hn, or LimitNOFILE of the service), or use fewer nodes"
        )

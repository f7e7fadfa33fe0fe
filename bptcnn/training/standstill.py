"""A run that stands still: its clock and its nodes stop with the coordinator's process, and go on with it.

Nodes of this machine are in sessions of their own: the terminal's Ctrl-Z does not reach them. Hosts go on until they
have waited too long for a sign of life; they end then, and are started again as after any loss.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bptcnn.memory import RunClock
from bptcnn.nodes import Node


@contextmanager
def stopped(clock: RunClock, nodes: Iterable[Node]) -> Iterator[None]:
    """Stop the clock and the nodes as long as this is open."""
    those = list(nodes)
    try:
        clock.hold()
        for node in those:
            node.suspend()
        yield
    finally:
        clock.go_on()  # before they look at it
        for node in those:
            node.go_on()


def note(seconds: float, hosts: bool) -> str:
    """Return what to tell of a stop that took so long, in a run with or without hosts."""
    meanwhile = "; hosts that have given it up meanwhile are started again" if hosts else ""
    return f"the run stood still for {seconds:.1f} s, which do not count{meanwhile}"

"""How a remote node's pause is answered: once its optimizer state has come, or at once where none is to come.

    Pause ──> waiting ──state, or too long──> paused ──Resume──> going
        └──── none is to come ───────────────────^

While it waits, the gate is open: what travels is merged, and the state comes behind it. Once the node is paused, the
gate holds back whatever else it submits.
"""

import threading
import time
from collections.abc import Callable

from bptcnn.nodes.claims import Impossible
from bptcnn.nodes.gate import Gate
from bptcnn.nodes.optimizer_state import OptimizerState

LONGEST_SECONDS = 90.0  # a minute was estimated, and the coordinator gives a node 120 s


class HandOver:
    """One agent's; `paused` tells the driver. A state that takes too long is the last one that is waited for."""

    def __init__(self, gate: Gate, wanted: bool, start: OptimizerState | None, paused: Callable[[], None]) -> None:
        """`wanted`: the node hands states over. `start`: the one that it starts from, and has until its first pause."""
        self._gate, self._wanted, self._paused = gate, wanted, paused
        self._state = start
        self._asked: float | None = None
        self._due = 0  # states that it was asked for and has not sent
        self._lock = threading.Lock()

    def state(self) -> OptimizerState | None:
        """Return what the node has handed over at this pause."""
        with self._lock:
            return self._state

    def pause(self) -> None:
        """The node is told to pause."""
        with self._lock:
            self._state = None
            if self._wanted:
                self._asked = time.monotonic()
                self._due += 1
            else:
                self._stand_still()

    def resume(self) -> None:
        """The node is told to go on."""
        with self._lock:
            self._state = self._asked = None
            self._gate.open()

    def take(self, state: OptimizerState) -> bool:
        """A state has come, which counts unless it is late; return whether the node shall send the next one.

        Raise Impossible where it was asked for none.
        """
        with self._lock:
            if not self._due:
                raise Impossible("it handed more states over than there were pauses")
            self._due -= 1
            if self._asked is not None:
                self._state, self._asked = state, None
                self._stand_still()
            return self._wanted

    def attend(self) -> None:
        """Stop waiting for what takes too long; called now and then."""
        with self._lock:
            if self._asked is not None and time.monotonic() - self._asked > LONGEST_SECONDS:
                self._wanted, self._asked = False, None
                self._stand_still()

    def _stand_still(self) -> None:
        self._gate.close()
        self._paused()

"""The clock of a run: seconds since the machine started, without those in which the run stood still.

    coordinator   a thread says twice a second until when the clock may go          RunClock
    everybody     now() = min(system's clock, until) - left_out                     RunTime

Where the coordinator's process stands still, whatever stops it (SIGSTOP, a frozen container, a paused machine), nobody
moves the limit, and the clock stops for all by itself, after _LONGEST seconds at most. The coordinator's next turn
leaves out what was missed. Where it knows that it will be stopped (Ctrl-Z), it stops the clock at once. A process that
stands still by itself does not stop the clock: it is slow.

The clock never goes back, and it goes on where it stopped, whoever looks first. For that the writer stores `left_out`
before `until`, and readers load `until` first.
"""

# mypy: disable-error-code="call-arg, no-any-return"
# (an intrinsic's declaration has a typing context that its callers do not pass)

import threading
import time
from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from bptcnn.kernels.atomics import load_acquire, store_release
from bptcnn.kernels.compilation import compiled
from bptcnn.memory.shared import SharedMemory
from bptcnn.threads import start_thread

Words = npt.NDArray[np.int64]

_UNTIL, _LEFT_OUT = range(2)  # words, in nanoseconds
_BYTES = 16
_TURN = 0.5  # seconds between two turns, at whole multiples: when heartbeats come, too
_LONGEST = 2_000_000_000  # that the clock goes without a turn: a busy machine lets its threads wait


@compiled("int64(int64[::1], int64)")
def _load(words: Words, index: int) -> int:
    return int(load_acquire(np.int64(words.ctypes.data) + 8 * index))


@compiled("void(int64[::1], int64, int64)")
def _store(words: Words, index: int, value: int) -> None:
    store_release(np.int64(words.ctypes.data) + 8 * index, value)


class RunTime:
    """The clock as everybody reads it."""

    def __init__(self, memory: SharedMemory, system: Callable[[], int] = time.monotonic_ns) -> None:
        """Read what is in `memory`; `system` is the clock that it is made from."""
        self._memory, self._system = memory, system
        self._mapped: Words | None = memory.view(np.int64, (2,))
        self._last = 0

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map the clock in a process that has inherited the descriptor, which this takes over."""
        return cls(SharedMemory.attach(fd, _BYTES))

    @property
    def fd(self) -> int:
        """Descriptor to hand to child processes."""
        return self._memory.fd

    @property
    def words(self) -> Words:
        """The memory; ValueError after `close`."""
        if self._mapped is None:
            raise ValueError("the clock is closed")
        return self._mapped

    def now(self) -> float:
        """Return the run's time in seconds; ValueError after `close`."""
        until = _load(self.words, _UNTIL)
        self._last = max(self._last, min(self._system(), until) - _load(self.words, _LEFT_OUT))
        return self._last / 1e9

    def close(self) -> None:
        """Free the memory; safe to call again."""
        self._mapped = None
        self._memory.close()


class RunClock(RunTime):
    """The clock as its coordinator keeps it; starts at the system's time. `close` it in the end."""

    def __init__(self, system: Callable[[], int] = time.monotonic_ns) -> None:
        """Raise UserError where there is no memory for it."""
        super().__init__(SharedMemory.create(_BYTES, "clock"), system)
        self._turning = threading.RLock()  # again by a signal's handler in the same thread
        self._held = False
        self._missed = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        _store(self.words, _UNTIL, system() + _LONGEST)

    def start(self) -> None:
        """Turn from here on, in a thread; raise UserError where there is none."""
        self.turn()
        thread = threading.Thread(target=self._run, daemon=True, name="clock")
        start_thread(thread)
        self._thread = thread

    def _run(self) -> None:
        while not self._ended.wait(_TURN - time.monotonic() % _TURN):
            self.turn()

    def turn(self) -> None:
        """Leave out what was missed since the last turn, and let the clock go on."""
        with self._turning:
            if self._held:
                return
            now, until = self._system(), _load(self.words, _UNTIL)
            if now > until:
                self._missed += now - until
                _store(self.words, _LEFT_OUT, _load(self.words, _LEFT_OUT) + now - until)
            _store(self.words, _UNTIL, now + _LONGEST)

    def hold(self) -> None:
        """Stop the clock until `go_on`."""
        with self._turning:
            self._held = True
            _store(self.words, _UNTIL, min(self._system(), _load(self.words, _UNTIL)))

    def go_on(self) -> None:
        """Go on from where it was held."""
        self._held = False
        self.turn()

    def missed(self) -> float:
        """Return the seconds that were left out since this was last asked for."""
        with self._turning:
            missed, self._missed = self._missed, 0
        return missed / 1e9

    def close(self) -> None:
        """End the thread, free the memory; safe to call again."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        super().close()

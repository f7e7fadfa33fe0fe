"""The work-stealing executor: threads that run a task graph without Python, without the GIL and without allocation.

    step() ──opens the gate──> every worker:  own ready set, highest rank first ──empty──> steal from the fullest
                                   │                                                          │ nothing anywhere
                                   ▼                                                          ▼
                     call the kernel; count down its successors;              spin for microseconds, then sleep on a
                     those at 0 enter the own ready set                       futex until somebody has tasks to give

Guarantees
- A worker takes the ready task of highest upward rank in its own set; tasks are numbered in rank order and a ready set
  is a bitmap, so that is a find-first-set. An empty worker takes from the worker with most ready tasks.
- A task runs once, after all that it depends on, and sees their writes: dependency counts are sequentially consistent
  read-modify-writes.
- Kernels run with denormal numbers flushed to zero, on every thread alike; the caller's own arithmetic does not.
- A kernel that returns a status other than 0 ends the step: tasks that a worker has taken finish, nothing that waits
  for the failed one starts.
- Steals and idle time are counted; the clock is read only where a worker runs out of tasks and where it has one again.
- Between steps, and in a step when nothing is ready for long, workers sleep: an idle model uses no CPU.
- A worker that wakes late finds the gate closed and never touches the next step's state: step() closes the gate and
  waits until those inside have left.
"""

import threading
import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.inner.graph import TaskGraph
from bptcnn.inner.step_counts import StepCounts
from bptcnn.kernels.atomics import (
    compare_and_swap,
    fence_full,
    fetch_add,
    fetch_or,
    first_set_bit,
    futex_wait,
    futex_wake,
    load_acquire,
    monotonic_ns,
    spin_pause,
    store_release,
)
from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.denormals import flush_denormals, restore_denormals
from bptcnn.kernels.pointers import call_kernel, record_at, words

_LINE = 8  # words in a cache line: words that different threads write lie on lines of their own
_GATE, _SIGNAL, _SLEEPERS, _DONE, _STATUS, _FAILED, _IDLERS, _NEWS, _CLOSING, _GRAPH, _STEPS, _WORKERS = range(12)
_STEP_COUNT, _STEP_NS, _BEGAN = range(3)  # in line _STEPS: written by the caller alone
_STEALS, _IDLE_NS, _SINCE = range(3)  # in line _WORKERS + worker: written by that worker alone within a step
_SPIN_NS = 150_000  # before a thread sleeps: what a wake-up costs (40 us, several times that in a virtual machine)
_PAUSE_NS = 10_000_000  # a sleeper within a step looks again after 10 ms at the latest
_REST_NS = 1_000_000_000  # and between steps after 1 s
_CLOSED = 1

_GRAPH_RECORD = np.dtype(
    [
        (name, np.int64)
        for name in (
            "tasks",
            "calls",
            "successor_ends",
            "successor_list",
            "dependencies",
            "waiting",  # dependencies still open
            "bitmap_words",  # in one ready set
            "ready",  # (workers, bitmap_words)
            "counts",  # (workers, _LINE): ready tasks
            "workers",
            "starts",  # (tasks,) monotonic ns, or 0 where no trace is wanted
            "ends",
            "places",  # (tasks,) worker
        )
    ],
    align=True,
)
_graph_at = record_at(_GRAPH_RECORD)


@task_kernel
def end_of_step(operation, first, last, part, worker):
    """Do nothing: a task that joins others, such as the last one of a graph."""
    return 0


@compiled("void(int64, int64, int64)")
def _push(graph, worker, task):
    g = _graph_at(graph)
    fetch_add(g.counts + 8 * _LINE * worker, 1)
    fetch_or(g.ready + 8 * (worker * g.bitmap_words + (task >> 6)), np.int64(1) << (task & 63))


@compiled("int64(int64, int64)")
def _pop(graph, worker):
    """Take the highest-ranked task of a worker's ready set, or -1."""
    g = _graph_at(graph)
    if load_acquire(g.counts + 8 * _LINE * worker) <= 0:
        return -1
    for index in range(g.bitmap_words):
        address = g.ready + 8 * (worker * g.bitmap_words + index)
        bits = load_acquire(address)
        while bits != 0:
            if compare_and_swap(address, bits, bits & (bits - 1)) == 1:
                fetch_add(g.counts + 8 * _LINE * worker, -1)
                return index * 64 + first_set_bit(bits)
            bits = load_acquire(address)
    return -1


@compiled("int64(int64, int64)")
def _steal(graph, thief):
    """Take the highest-ranked task of the fullest other worker, or -1 where nobody has any."""
    g = _graph_at(graph)
    while True:
        fullest, most = np.int64(-1), np.int64(0)
        for worker in range(g.workers):
            count = load_acquire(g.counts + 8 * _LINE * worker)
            if worker != thief and count > most:
                fullest, most = np.int64(worker), count
        if fullest < 0:
            return -1
        task = _pop(graph, fullest)
        if task >= 0:
            return task
        spin_pause()


@compiled("void(int64)")
def _announce(state):
    """Wake those who found nothing to do: there are tasks, or the step is over."""
    fence_full()  # after what was pushed, before the look at the idlers
    if load_acquire(state + 8 * _LINE * _IDLERS) > 0:
        fetch_add(state + 8 * _LINE * _NEWS, 1)
        futex_wake(state + 8 * _LINE * _NEWS, 1 << 30)


@compiled("void(int64, int64, int64, int64)")
def _run_task(state, graph, worker, task):
    g = _graph_at(graph)
    call = words(g.calls + 40 * task, 5)
    if g.starts:
        words(g.starts, g.tasks)[task] = monotonic_ns()
    status = call_kernel(call[0], call[1], call[2], call[3], call[4], worker)
    if g.starts:
        words(g.ends, g.tasks)[task] = monotonic_ns()
        words(g.places, g.tasks)[task] = worker
    if status != 0:
        if compare_and_swap(state + 8 * _LINE * _STATUS, 0, status) == 1:
            store_release(state + 8 * _LINE * _FAILED, task)
        fetch_or(state + 8 * _LINE * _DONE, 1)
        _announce(state)
        return
    ends = words(g.successor_ends, g.tasks + 1)
    successors = words(g.successor_list, ends[g.tasks])
    released = 0
    for index in range(ends[task], ends[task + 1]):
        if fetch_add(g.waiting + 8 * successors[index], -1) == 1:
            _push(graph, worker, successors[index])
            released += 1
    if task == g.tasks - 1:
        fetch_or(state + 8 * _LINE * _DONE, 1)
    if released > 1 or task == g.tasks - 1:
        _announce(state)


@compiled("int64(int64, int64, int64)")
def _find_task(state, graph, worker):
    """Take a task of one's own, else another worker's, or -1; count steals, and the time from the first failure on."""
    counters = words(state + 8 * _LINE * (_WORKERS + worker), _LINE)
    task = _pop(graph, worker)
    if task < 0:
        task = _steal(graph, worker)
        counters[_STEALS] += task >= 0
    if task >= 0 and counters[_SINCE] != 0:
        counters[_IDLE_NS] += monotonic_ns() - counters[_SINCE]
        counters[_SINCE] = 0
    elif task < 0 and counters[_SINCE] == 0:
        counters[_SINCE] = monotonic_ns()
    return task


@compiled("void(int64, int64)")
def _run_tasks(state, worker):
    """Run tasks until the step is done."""
    graph = load_acquire(state + 8 * _LINE * _GRAPH)
    since = 0  # when it ran out of tasks: once it has spun for long enough, it sleeps until it finds one
    while load_acquire(state + 8 * _LINE * _DONE) == 0:
        task = _find_task(state, graph, worker)
        if task >= 0:
            _run_task(state, graph, worker, task)
            since = 0
            continue
        spin_pause()
        if since == 0:
            since = monotonic_ns()
        elif monotonic_ns() - since > _SPIN_NS:
            fetch_add(state + 8 * _LINE * _IDLERS, 1)
            fence_full()
            news = load_acquire(state + 8 * _LINE * _NEWS)
            task = _find_task(state, graph, worker)  # what was pushed before we were counted as idle
            if task < 0 and load_acquire(state + 8 * _LINE * _DONE) == 0:
                futex_wait(state + 8 * _LINE * _NEWS, news, _PAUSE_NS)
            fetch_add(state + 8 * _LINE * _IDLERS, -1)
            if task >= 0:
                _run_task(state, graph, worker, task)
                since = 0


@compiled("void(int64, int64)")
def _work(state, worker):
    """Take part in a step; what numbers mean to the rest of the thread stays as it is."""
    denormals = flush_denormals()
    _run_tasks(state, worker)
    restore_denormals(denormals)


@compiled("void(int64, int64)")
def _serve(state, worker):
    """Life of a worker thread: wait for a step, enter by the gate, work, leave; until the executor closes."""
    while True:
        signal = load_acquire(state + 8 * _LINE * _SIGNAL)
        if load_acquire(state + 8 * _LINE * _CLOSING) != 0:
            return
        gate = load_acquire(state + 8 * _LINE * _GATE)
        if gate & _CLOSED == 0:
            if compare_and_swap(state + 8 * _LINE * _GATE, gate, gate + 2) == 0:
                continue
            _work(state, worker)
            fetch_add(state + 8 * _LINE * _GATE, -2)
        end = monotonic_ns() + _SPIN_NS
        while load_acquire(state + 8 * _LINE * _SIGNAL) == signal and monotonic_ns() < end:
            spin_pause()
        if load_acquire(state + 8 * _LINE * _SIGNAL) != signal:
            continue
        fetch_add(state + 8 * _LINE * _SLEEPERS, 1)
        fence_full()
        if load_acquire(state + 8 * _LINE * _SIGNAL) == signal:
            futex_wait(state + 8 * _LINE * _SIGNAL, signal, _REST_NS)
        fetch_add(state + 8 * _LINE * _SLEEPERS, -1)


@compiled("void(int64)")
def _wake_all(state):
    fetch_add(state + 8 * _LINE * _SIGNAL, 1)
    fence_full()
    if load_acquire(state + 8 * _LINE * _SLEEPERS) > 0:
        futex_wake(state + 8 * _LINE * _SIGNAL, 1 << 30)


@compiled("void(int64)")
def _reset(graph):
    """Restore the dependency counts and deal the tasks that wait for nothing to the workers in turn."""
    g = _graph_at(graph)
    dependencies, waiting = words(g.dependencies, g.tasks), words(g.waiting, g.tasks)
    ready = words(g.ready, g.workers * g.bitmap_words)
    counts = words(g.counts, g.workers * _LINE)
    for i in range(g.workers * g.bitmap_words):
        ready[i] = 0
    for i in range(g.workers * _LINE):
        counts[i] = 0
    turn = 0
    for task in range(g.tasks):
        waiting[task] = dependencies[task]
        if dependencies[task] == 0:
            ready[turn * g.bitmap_words + (task >> 6)] |= np.int64(1) << (task & 63)
            counts[turn * _LINE] += 1
            turn = (turn + 1) % g.workers


@compiled("void(int64, int64)")
def _begin_counting(state, workers):
    """Every worker counts as idle from the step's beginning until it finds its first task."""
    steps = words(state + 8 * _LINE * _STEPS, _LINE)
    steps[_BEGAN] = monotonic_ns()
    for worker in range(workers):
        words(state + 8 * _LINE * (_WORKERS + worker), _LINE)[_SINCE] = steps[_BEGAN]


@compiled("void(int64, int64)")
def _end_counting(state, workers):
    """Count the step, and for those who found nothing more to do the time to its end."""
    steps, now = words(state + 8 * _LINE * _STEPS, _LINE), monotonic_ns()
    steps[_STEP_COUNT] += 1
    steps[_STEP_NS] += now - steps[_BEGAN]
    for worker in range(workers):
        counters = words(state + 8 * _LINE * (_WORKERS + worker), _LINE)
        if counters[_SINCE] != 0:
            counters[_IDLE_NS] += now - counters[_SINCE]


@compiled("int64(int64, int64)")
def _step(state, graph):
    """Run one step of the graph with all workers; the caller is worker 0. Return the status."""
    workers = _graph_at(graph).workers
    _begin_counting(state, workers)
    _reset(graph)
    store_release(state + 8 * _LINE * _GRAPH, graph)
    store_release(state + 8 * _LINE * _STATUS, 0)
    store_release(state + 8 * _LINE * _DONE, 0)
    store_release(state + 8 * _LINE * _GATE, 0)
    if workers > 1:
        _wake_all(state)
    _work(state, 0)
    fetch_or(state + 8 * _LINE * _GATE, _CLOSED)
    while load_acquire(state + 8 * _LINE * _GATE) != _CLOSED:
        spin_pause()
    _end_counting(state, workers)
    return load_acquire(state + 8 * _LINE * _STATUS)


@dataclass(frozen=True)
class Trace:
    """When and where each task of a graph ran in one step: monotonic nanoseconds, worker index."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    workers: npt.NDArray[np.int64]


class KernelError(RuntimeError):
    """A kernel stopped a step; `status` says why, `label` names the task."""

    def __init__(self, status: int, label: str) -> None:
        super().__init__(f"task {label} failed with status {status}")
        self.status = status
        self.label = label


class PreparedGraph:
    """A graph with the mutable arrays that an executor of `workers` threads runs it on."""

    def __init__(self, graph: TaskGraph, workers: int, traced: bool = False) -> None:
        self.graph = graph
        count = len(graph.tasks)
        bitmap_words = -(-count // 64)
        bitmap_words += -bitmap_words % _LINE
        self.starts, self.ends, self.places = (np.zeros(count, np.int64) for _ in range(3))
        self._arrays = [np.zeros(count, np.int64), np.zeros((workers, bitmap_words), np.int64)]
        self._arrays.append(np.zeros((workers, _LINE), np.int64))
        self._record = np.zeros(1, _GRAPH_RECORD)
        record = self._record[0]
        record["tasks"], record["workers"], record["bitmap_words"] = count, workers, bitmap_words
        for name in ("calls", "successor_ends", "successor_list", "dependencies"):
            record[name] = getattr(graph, name).ctypes.data
        for name, array in zip(("waiting", "ready", "counts"), self._arrays, strict=True):
            record[name] = array.ctypes.data
        for name in ("starts", "ends", "places"):
            record[name] = getattr(self, name).ctypes.data if traced else 0
        self.address = self._record.ctypes.data

    def trace(self) -> Trace:
        """Return the last step's trace; the graph must have been prepared with `traced`."""
        return Trace(self.starts.copy(), self.ends.copy(), self.places.copy())


@compiled("void(int64)")
def _end_workers(state):
    store_release(state + 8 * _LINE * _CLOSING, 1)
    _wake_all(state)


def _close(state: npt.NDArray[np.int64], threads: list[threading.Thread]) -> None:
    _end_workers(state.ctypes.data)
    for thread in threads:
        thread.join()


class Executor:
    """`threads` workers: the caller of `run` and threads - 1 of its own. Close it, or let it be collected."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._state = np.zeros((_WORKERS + threads, _LINE), np.int64)
        self._state[_GATE, 0] = _CLOSED
        self._address = int(self._state.ctypes.data)  # asking takes longer than a small step's scheduling
        self._running = threading.Lock()
        own: list[threading.Thread] = []
        self._finalizer = weakref.finalize(self, _close, self._state, own)
        for index in range(1, threads):
            thread = threading.Thread(target=_serve, args=(self._address, index), daemon=True, name=f"bptcnn-{index}")
            try:
                thread.start()
            except RuntimeError:  # the system's or the group's limit
                self.close()
                raise UserError(f"cannot start {threads} threads: use fewer") from None
            own.append(thread)

    def prepare(self, graph: TaskGraph, traced: bool = False) -> PreparedGraph:
        """Return `graph` made ready to run here."""
        return PreparedGraph(graph, self.threads, traced)

    def run(self, prepared: PreparedGraph) -> None:
        """Run the graph once. Raise KernelError where a kernel failed; not for two threads at a time."""
        with self._running:
            if not self._finalizer.alive:
                raise RuntimeError("the executor is closed")
            status = int(_step(self._address, prepared.address))
        if status:
            raise KernelError(status, prepared.graph.tasks[int(self._state[_FAILED, 0])].label)

    def counts(self) -> StepCounts:
        """Return what was counted since the executor was made; not while it runs."""
        steps, workers = self._state[_STEPS].tolist(), self._state[_WORKERS:].T.tolist()
        return StepCounts(steps[_STEP_COUNT], steps[_STEP_NS], tuple(workers[_IDLE_NS]), tuple(workers[_STEALS]))

    def close(self) -> None:
        """End the worker threads; safe to call again."""
        self._finalizer()

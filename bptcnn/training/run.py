"""`train`: a whole run, from settings to a run folder with a summary."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from bptcnn.available import require_available
from bptcnn.data import Dataset, Samples, split_validation
from bptcnn.errors import UserError
from bptcnn.inner.storage import Storage
from bptcnn.memory.layout import Layout
from bptcnn.networks import Network
from bptcnn.outer import Coordinator, Finish, NodeProfile, NodeTotals, RunSettings
from bptcnn.profiling import comparable_speeds, find_profile, node_speed, usable_cores
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint
from bptcnn.training.driver import Assignment, Driver
from bptcnn.training.evaluation import Evaluator
from bptcnn.training.progress import EpochRow, Observer
from bptcnn.training.report import write_report
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import TrainSettings
from bptcnn.training.summary import NodeSummary, Summary

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Result:
    """What `train` gives back; the run folder holds the weights."""

    summary: Summary
    run_dir: Path
    epochs: tuple[EpochRow, ...]


def train_run(
    network: Network,
    dataset: Dataset,
    settings: TrainSettings,
    start: Checkpoint,
    run_dir: Path,
    resume: bool,
    observer: Observer,
    began: float,
) -> Result:
    """Train from `start` on, over local nodes; see `bptcnn.train`. `began`: when set-up started (monotonic)."""
    train, measured = dataset.train, dataset.test
    if settings.validation is not None:
        train, measured = split_validation(dataset.train, settings.validation, settings.seed)
    threads = settings.threads or max(1, usable_cores() // len(settings.nodes))
    outer = _outer_settings(network, train, settings, threads)
    coordinator = Coordinator(outer, start.state)
    _require_memory(network, train, settings, threads)
    assignment = Assignment(network, train, measured, settings, outer, threads, start)
    folder = RunFolder.reopen(run_dir) if resume else RunFolder.create(run_dir)
    with folder.held():
        folder.forget_results()
        folder.write_config({**settings.to_dict(), "network": network.to_dict(), "data": dataset.source})
        observer.setup(_starting(settings, threads, start))
        with contextlib.closing(Evaluator(network, usable_cores())) as evaluator:
            driver = Driver(assignment, coordinator, folder, evaluator, observer)
            try:
                outcome = driver.run()
            except KeyboardInterrupt:
                driver.stop("interrupted")
                driver.close()
                _conclude(driver, assignment, dataset, folder, evaluator, began)
                raise
            finally:
                driver.close()
            summary = _conclude(driver, assignment, dataset, folder, evaluator, began)
    if outcome.outcome == "failed":
        raise UserError(f"training failed: {outcome.reason}; see {folder.logs}")
    return Result(summary, folder.path, tuple(driver.rows))


def _starting(settings: TrainSettings, threads: int, start: Checkpoint) -> str:
    """Return what to say before the nodes start."""
    if start.epoch >= settings.epochs:
        return f"nothing to train: all {start.epoch} epochs are done; ask for more epochs to go on"
    nodes, cores = len(settings.nodes), usable_cores()
    crowd = f": {nodes * threads} threads on {cores} cores" if settings.threads and nodes * threads > cores else ""
    return f"starting {nodes} node{'s' if nodes > 1 else ''}{crowd}"


def _require_memory(network: Network, train: Samples, settings: TrainSettings, threads: int) -> None:
    """Raise UserError where the nodes together need more memory than there is."""
    nodes = len(settings.nodes)
    node = Storage(network, settings.batch_size, threads, training=True).arena.size
    need = nodes * node + Layout(network.size, nodes).size + train.images.nbytes
    what = f"{nodes} nodes need {need / 1e6:,.0f} MB at batch size {settings.batch_size}"
    require_available(need, what, "use fewer nodes or a smaller batch")


def _outer_settings(network: Network, train: Samples, settings: TrainSettings, threads: int) -> RunSettings:
    profile = find_profile()
    alone = node_speed(network.name, settings.batch_size, threads, profile, network.input_shape)
    full = comparable_speeds([alone])[0]
    return RunSettings(
        nodes=tuple(NodeProfile(f"node{j}", full * speed) for j, speed in enumerate(settings.nodes)),
        samples=len(train),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        local_steps=settings.local_steps,
        learning_rates=settings.learning_rates(),
        update=settings.update,
        partition=settings.partition,
        seed=settings.seed,
    )


def _node_summaries(driver: Driver, assignment: Assignment) -> tuple[NodeSummary, ...]:
    """Return every node's part, in the order of the settings, then those of earlier parts of a resumed run."""
    coordinator = driver.coordinator
    parts: list[tuple[str, float | None, NodeTotals, str | None]] = [
        (status.name, speed, status.totals, status.reason_lost)
        for status, speed in zip(coordinator.statuses(), assignment.settings.nodes, strict=True)
    ]
    parts += [(node.name, None, node.totals, "left out when the run was resumed") for node in coordinator.departed()]
    moved = _FLOAT * assignment.network.size
    return tuple(
        NodeSummary(
            name=name,
            speed=speed,
            alone_images_per_second=None,
            images=totals.images,
            compute_seconds=totals.compute_seconds,
            wait_seconds=totals.wait_seconds,
            communication_seconds=totals.communication_seconds,
            bytes_sent=totals.submissions * moved,
            bytes_received=totals.submissions * moved,
            lost=lost,
        )
        for name, speed, totals, lost in parts
    )


def _conclude(
    driver: Driver, assignment: Assignment, dataset: Dataset, folder: RunFolder, evaluator: Evaluator, began: float
) -> Summary:
    """Write summary and report of a run that has ended, however it did."""
    outcome = driver.outcome or Finish("stopped", "interrupted")
    rows = driver.rows
    best = max(rows, key=lambda row: row.test_accuracy, default=None)
    test_accuracy = rows[-1].test_accuracy if rows else None
    if rows and assignment.settings.validation is not None:
        test_accuracy = evaluator.accuracy(read_checkpoint(folder.last).weights, dataset.test)
    counters = driver.coordinator.counters()
    train_seconds = sum(row.seconds for row in assignment.start.rows) + driver.train_seconds
    summary = Summary(
        outcome=outcome.outcome,
        reason=outcome.reason,
        test_accuracy=test_accuracy,
        best_epoch=best.epoch if best else None,
        best_accuracy=best.test_accuracy if best else None,
        chosen_by="test set" if assignment.settings.validation is None else "validation set",
        train_seconds=train_seconds,
        setup_seconds=(driver.ready_at or time.monotonic()) - began,
        images_per_second=counters.images_trained / train_seconds if train_seconds else 0.0,
        images_trained=counters.images_trained,
        images_redone=counters.images_redone,
        epochs=len(rows),
        updates=counters.updates,
        update=assignment.settings.update,
        partition=assignment.settings.partition,
        network=assignment.network.name,
        parameters=assignment.network.size,
        waiting_seconds=counters.waiting_seconds,
        efficiency=None,
        nodes=_node_summaries(driver, assignment),
    )
    folder.write_metrics(rows)  # an interrupt may have come between a row and its file
    folder.write_summary(summary)
    write_report(folder.path / "report.html", summary, rows)
    return summary

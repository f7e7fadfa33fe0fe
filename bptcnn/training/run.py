"""`train`: a whole run, from settings to a run folder with a summary."""

import contextlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from bptcnn.data import Dataset, Samples, split_validation
from bptcnn.errors import UserError
from bptcnn.files import is_file
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.names import text_of
from bptcnn.networks import Network
from bptcnn.nodes.doors import reaching_seconds
from bptcnn.outer import Coordinator, Finish, NodeTotals, RunSettings
from bptcnn.profiling import usable_cores
from bptcnn.profiling.files import read_tuning, write_tuning
from bptcnn.profiling.network import flops_per_image
from bptcnn.profiling.tunings import tuning_of, tuning_record
from bptcnn.rates import rate
from bptcnn.training.breakdown import Share, break_down, efficiency
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint
from bptcnn.training.data_record import DataRecord, write_data_record
from bptcnn.training.driver import Assignment, Driver
from bptcnn.training.evaluation import Evaluator
from bptcnn.training.launcher import Launcher
from bptcnn.training.members import Member, gather, profiles
from bptcnn.training.optimizer_states import hands_over, lacking
from bptcnn.training.progress import EpochRow, Observer
from bptcnn.training.report import write_report
from bptcnn.training.requirements import require_memory, require_run_descriptors
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import TrainSettings
from bptcnn.training.summary import NodeSummary, Summary

_READY_SECONDS = 270.0  # that nodes may take to get ready once they are reached: they compile
_TRIAL_SECONDS = 1.0  # a node's trial before the run takes about so long...
_TRIALS_SECONDS = 10.0  # ...and all of them together


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
    run_dir: Path | None,
    resume: bool,
    observer: Observer,
    began: float,
) -> Result:
    """Train from `start` on; see `bptcnn.train`. `began`: when set-up started (monotonic).

    `run_dir` None: a new folder by default. On `resume` the caller holds the folder, since before it read `start`.
    """
    train, measured = dataset.train, dataset.test
    if settings.validation is not None:
        train, measured = split_validation(dataset.train, settings.validation, settings.seed)
    members = gather(network, settings, observer)
    outer = _outer_settings(network, train, settings, members)
    coordinator = Coordinator(outer, start.state)
    reserved = require_memory(network, train, settings, members, usable_cores())
    require_run_descriptors(members)
    assignment = Assignment(network, train, measured, settings, members, outer, start)
    with _opened(network, run_dir, resume) as folder:
        observer.saving(folder.path)
        before = _kept_tuning(folder) if resume else None  # what is refused has changed nothing
        folder.clear()
        folder.write_config({**settings.to_dict(), "network": network.to_dict(), "data": text_of(dataset.source)})
        if not is_file(folder.data):
            write_data_record(folder.data, DataRecord.of(dataset))
        tuning = before or _tuning(network, settings, members, folder, observer)
        observer.setup(_starting(settings, members, start))
        _tell_what_lacks(settings, members, start, network, observer)
        with contextlib.closing(Evaluator(network, usable_cores(), reserved)) as evaluator:
            states = start.optimizer if start.optimizer is not None else {}
            launcher = Launcher(network, settings, members, dataset, train, folder, tuning, states)
            driver = Driver(assignment, coordinator, folder, evaluator, observer, launcher)
            try:
                try:
                    outcome = driver.run()
                except KeyboardInterrupt:
                    driver.stop("interrupted")
                    driver.close()
                    _conclude(driver, assignment, dataset, folder, evaluator, observer, began)
                    raise
                finally:
                    driver.close()
                summary = _conclude(driver, assignment, dataset, folder, evaluator, observer, began)
            except UserError as error:  # a full disk, a folder that has vanished
                raise UserError(f"{error}; {folder.kept()}") from None
    if outcome.outcome == "failed":
        raise UserError(f"training failed: {outcome.reason}; see {folder.logs}")
    return Result(summary, folder.path, tuple(driver.rows))


def _opened(network: Network, run_dir: Path | None, resume: bool) -> contextlib.AbstractContextManager[RunFolder]:
    if resume and run_dir is not None:
        return contextlib.nullcontext(RunFolder.reopen(run_dir))
    return RunFolder.made(run_dir, network.name)


def _kept_tuning(folder: RunFolder) -> Tuning:
    """Return how local nodes computed their steps before, so that a resumed run stays the same run."""
    return read_tuning(folder.tuning).tuning if is_file(folder.tuning) else BY_RULE


def _tuning(
    network: Network,
    settings: TrainSettings,
    members: tuple[Member, ...],
    folder: RunFolder,
    observer: Observer,
) -> Tuning:
    """Return how the local nodes of a new run compute their steps."""
    local = [member for member in members if member.host is None]
    if not settings.autotune or not local:
        return BY_RULE
    record = tuning_record(network, settings.batch_size, local[0].threads, settings.precision, observer.setup)
    if record is not None:
        write_tuning(folder.tuning, record)
    return tuning_of(record)


def _starting(settings: TrainSettings, members: tuple[Member, ...], start: Checkpoint) -> str:
    """Return what to say before the nodes start."""
    if start.epoch >= settings.epochs:
        return f"nothing to train: all {start.epoch} epochs are done; ask for more epochs to go on"
    nodes = sum(member.absent is None for member in members)
    cores = usable_cores()
    busy = sum(member.threads for member in members if member.host is None)
    crowd = f": {busy} threads on {cores} cores" if settings.threads and busy > cores else ""
    return f"starting {nodes} node{'s' if nodes > 1 else ''}{crowd}"


def _tell_what_lacks(
    settings: TrainSettings, members: tuple[Member, ...], start: Checkpoint, network: Network, observer: Observer
) -> None:
    """Say which nodes start without what they had, and which will after the next interruption; a line each."""
    if start.epoch >= settings.epochs:
        return
    if start.state is not None:
        missing = lacking(start.optimizer, [member.name for member in members], settings.momentum)
        if missing is not None:
            observer.warning(missing)
    size = network.size if settings.momentum else 0
    slow = [member.name for member in members if member.host is not None and not hands_over(size, member.bandwidth)]
    if slow:
        observer.warning(f"checkpoints are without the momentum of {', '.join(slow)}: sending it would take too long")


def _outer_settings(
    network: Network, train: Samples, settings: TrainSettings, members: tuple[Member, ...]
) -> RunSettings:
    fewest, most = settings.local_step_range()
    return RunSettings(
        nodes=profiles(members),
        samples=len(train),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        local_steps=most,
        fewest_local_steps=fewest,
        alone_local_steps=settings.alone_local_steps(settings.batch_size * flops_per_image(network)),
        learning_rates=settings.learning_rates(),
        update=settings.update,
        partition=settings.partition,
        seed=settings.seed,
        trial_seconds=min(_TRIAL_SECONDS, _TRIALS_SECONDS / len(members)) if settings.measure else 0.0,
        ready_seconds=_READY_SECONDS + reaching_seconds([member.host for member in members if member.host]),
    )


def _node_summaries(driver: Driver) -> tuple[NodeSummary, ...]:
    """Return every node's part, as the members are, then those of earlier parts of a resumed run."""
    coordinator, here = driver.coordinator, platform.node()
    summaries = [
        _node_summary(
            status.name,
            status.totals,
            host=member.host.address if member.host else here,
            speed=member.speed,
            alone=status.alone,
            lost=status.reason_lost,
        )
        for status, member in zip(coordinator.statuses(), driver.members, strict=True)
    ]
    summaries += [
        _node_summary(node.name, node.totals, lost="left out when the run was resumed")
        for node in coordinator.departed()
    ]
    return tuple(summaries)


def _node_summary(
    name: str,
    totals: NodeTotals,
    *,
    host: str | None = None,
    speed: float | None = None,
    alone: float | None = None,
    lost: str | None = None,
) -> NodeSummary:
    return NodeSummary(
        name=name,
        host=host,
        speed=speed,
        alone_images_per_second=alone,
        images=totals.images,
        refused=totals.refused,
        compute_seconds=totals.compute_seconds,
        wait_seconds=totals.wait_seconds,
        communication_seconds=totals.communication_seconds,
        transfer_seconds=totals.transfer_seconds,
        bytes_sent=totals.bytes_sent,
        bytes_received=totals.bytes_received,
        lost=lost,
    )


def _shares(driver: Driver) -> list[Share]:
    """Return what the run's breakdown is made of; what became of nodes of earlier parts is not known exactly."""
    pairs = zip(driver.coordinator.statuses(), driver.members, strict=True)
    shares = [Share(status.totals, member.host is not None, status.alone) for status, member in pairs]
    return [*shares, *(Share(node.totals, False, None) for node in driver.coordinator.departed())]


def _bytes_per_merge(driver: Driver) -> float:
    """Return the bytes of weights that were sent and received for a submission, on average over all nodes' ones."""
    totals = [status.totals for status in driver.coordinator.statuses()]
    totals += [node.totals for node in driver.coordinator.departed()]
    return sum(t.bytes_sent + t.bytes_received for t in totals) / max(1, sum(t.submissions for t in totals))


def _communication_share(nodes: tuple[NodeSummary, ...]) -> float:
    """Return the share of the nodes' time that training stood still for communication."""
    communication = sum(node.communication_seconds for node in nodes)
    time = communication + sum(node.compute_seconds + node.wait_seconds for node in nodes)
    return communication / time if time else 0.0


def _conclude(
    driver: Driver,
    assignment: Assignment,
    dataset: Dataset,
    folder: RunFolder,
    evaluator: Evaluator,
    observer: Observer,
    began: float,
) -> Summary:
    """Write summary and report of a run that has ended, however it did."""
    outcome = driver.outcome or Finish("stopped", "interrupted")
    rows = driver.rows
    best = max(rows, key=lambda row: row.test_accuracy, default=None)
    test_accuracy = rows[-1].test_accuracy if rows else None
    if rows and assignment.settings.validation is not None:
        test_accuracy = evaluator.accuracy(read_checkpoint(folder.last).weights, dataset.test)
    counters = driver.coordinator.counters()
    start = assignment.start
    train_seconds = sum(row.seconds for row in start.rows) + start.ahead.seconds + driver.train_seconds
    images_per_second = rate(counters.images_trained, train_seconds)
    nodes, shares = _node_summaries(driver), _shares(driver)
    summary = Summary(
        outcome=outcome.outcome,
        reason=outcome.reason,
        test_accuracy=test_accuracy,
        best_epoch=best.epoch if best else None,
        best_accuracy=best.test_accuracy if best else None,
        chosen_by="test set" if assignment.settings.validation is None else "validation set",
        train_seconds=train_seconds,
        setup_seconds=(driver.ready_at or time.monotonic()) - began,
        images_per_second=images_per_second,
        images_trained=counters.images_trained,
        images_redone=counters.images_redone,
        epochs=len(rows),
        updates=counters.updates,
        update=assignment.settings.update,
        partition=assignment.settings.partition,
        network=assignment.network.name,
        parameters=assignment.network.size,
        waiting_seconds=counters.waiting_seconds,
        bytes_per_merge=_bytes_per_merge(driver),
        communication_share=_communication_share(nodes),
        efficiency=efficiency(images_per_second, shares),
        breakdown=break_down(shares),
        nodes=nodes,
    )
    folder.write_metrics(rows)  # an interrupt may have come between a row and its file
    folder.write_summary(summary)
    try:
        write_report(folder.report, summary, rows)
    except Exception as error:  # whatever goes wrong in a library that draws: what was trained is there
        why = " ".join(str(error).split()) or type(error).__name__
        observer.warning(f"the report could not be written: {why}")
    return summary

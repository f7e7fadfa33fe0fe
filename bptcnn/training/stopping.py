"""When a run has learned enough: at a target accuracy, or when it has not got better for long."""

from collections.abc import Sequence

from bptcnn.training.progress import EpochRow
from bptcnn.training.settings import TrainSettings


def reason_to_stop(rows: Sequence[EpochRow], settings: TrainSettings) -> str | None:
    """Return why the run ends after the last of `rows`, all epochs so far, or None: it goes on."""
    last, target, patience = rows[-1], settings.target_accuracy, settings.patience
    if target is not None and last.test_accuracy >= target:
        return f"target accuracy {target:g} reached in epoch {last.epoch}: {last.test_accuracy:.4f}"
    best = max(rows, key=lambda row: row.test_accuracy)  # the first of equal ones
    if patience is not None and last.epoch - best.epoch >= patience and last.epoch < settings.epochs:
        epochs = "1 epoch" if patience == 1 else f"{patience} epochs"
        return f"{epochs} in a row no better than epoch {best.epoch}: {best.test_accuracy:.4f}"
    return None

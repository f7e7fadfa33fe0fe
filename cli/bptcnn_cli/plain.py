"""The display off a terminal: a line for each thing that happens."""

from rich.console import Console

from bptcnn.training.progress import EpochRow
from bptcnn_cli.relay import Display


class PlainDisplay(Display):
    """Prints lines that read well in a log."""

    def __init__(self, console: Console, measured: str) -> None:
        self._console, self._measured = console, measured
        self._epochs = 0

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def setup(self, message: str) -> None:
        """Print the step."""
        self._say(message)

    def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
        """Print what is trained by whom."""
        self._epochs = epochs
        self._say(f"training on {counted(len(names), 'node')}: {samples} images an epoch, {counted(epochs, 'epoch')}")

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        """Print the epoch."""
        self._say(
            f"epoch {row.epoch}/{self._epochs}: {row.seconds:.2f} s, train loss {row.train_loss:.4f}, "
            f"train accuracy {row.train_accuracy:.4f}, {self._measured} accuracy {row.test_accuracy:.4f}, "
            f"{speed(row.images_per_second)} images/s{', best so far' if best else ''}"
        )

    def warning(self, message: str) -> None:
        """Print it."""
        self._say(f"note: {message}")

    def submission_refused(self, name: str, reason: str) -> None:
        """Print whose and why."""
        self._say(f"refused a submission of {name}: {reason}; its images are trained again")

    def node_lost(self, name: str, reason: str) -> None:
        """Print who is gone."""
        self._say(f"lost {name}: {reason}; the others train its samples")

    def node_joined(self, name: str) -> None:
        """Print who is new."""
        self._say(f"{name} has joined and trains")

    def node_returned(self, name: str) -> None:
        """Print who is back."""
        self._say(f"{name} is back and trains")


def speed(images_per_second: float, form: str = ".0f") -> str:
    """Return "1234", or "-" for 0.0: not known."""
    return format(images_per_second, form) if images_per_second > 0.0 else "-"


def counted(count: int, noun: str) -> str:
    """Return "1 node", "2 nodes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

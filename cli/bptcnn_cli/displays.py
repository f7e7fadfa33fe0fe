"""Which display fits where the output goes."""

from bptcnn_cli.output import complain, console
from bptcnn_cli.relay import Display


class QuietDisplay(Display):
    """Tells what went wrong, and nothing else."""

    def warning(self, message: str) -> None:
        """Print it to standard error: what reads standard output wants the result alone."""
        complain(f"note: {message}")


def fitting_display(quiet: bool, measured: str = "test") -> Display:
    """Return a moving picture for a terminal, lines for a file or a pipe, or silence.

    measured: the images that the epochs' accuracy is measured on, "test" or "validation".
    """
    if quiet:
        return QuietDisplay()
    terminal = console()
    if terminal.is_terminal and not terminal.is_dumb_terminal:
        from bptcnn_cli.live import LiveDisplay

        return LiveDisplay(terminal, measured)
    from bptcnn_cli.plain import PlainDisplay

    return PlainDisplay(terminal, measured)

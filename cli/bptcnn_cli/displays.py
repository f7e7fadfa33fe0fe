"""Which display fits where the output goes."""

from bptcnn_cli.output import console
from bptcnn_cli.relay import Display


def fitting_display(quiet: bool, measured: str = "test") -> Display:
    """Return a moving picture for a terminal, lines for a file or a pipe, or silence.

    measured: the images that the epochs' accuracy is measured on, "test" or "validation".
    """
    if quiet:
        return Display()
    terminal = console()
    if terminal.is_terminal and not terminal.is_dumb_terminal:
        from bptcnn_cli.live import LiveDisplay

        return LiveDisplay(terminal, measured)
    from bptcnn_cli.plain import PlainDisplay

    return PlainDisplay(terminal, measured)

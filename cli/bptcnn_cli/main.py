"""The `bptcnn` program: its commands, and how it ends.

Exit codes: 0 done; 1 our own error (with its traceback), a failed run, a failed check, or output that could not be
written; 2 something the user can mend, one line on stderr; 130 interrupted.
"""

import os
import sys
from typing import Annotated

import typer

from bptcnn.errors import UserError
from bptcnn.own_settings import without_settings
from bptcnn_cli.benchmark import benchmark
from bptcnn_cli.checks import checks
from bptcnn_cli.defaults import CommandWithDefaults
from bptcnn_cli.evaluate import evaluate
from bptcnn_cli.node import node
from bptcnn_cli.output import STDOUT, complain, fill_closed_descriptors, one_line, say
from bptcnn_cli.profile import profile
from bptcnn_cli.signals import ignore_signals, stop_on_signals
from bptcnn_cli.train import train
from bptcnn_cli.utf8 import use_utf8

app = typer.Typer(
    name="bptcnn",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # our own errors keep Python's traceback
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=CommandWithDefaults)(train)
app.command()(evaluate)
app.command()(node)
app.command()(profile)
app.command()(benchmark)
app.command()(checks)


def _show_version(wanted: bool) -> None:
    if wanted:
        from bptcnn_cli.versions import own_version

        say(f"bptcnn {own_version()}")
        raise typer.Exit


@app.callback()
def _bptcnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train convolutional networks on CPUs: one workstation, or nodes of different speeds.

    `bptcnn train` trains on an embedded sample of Fashion-MNIST: nothing to download or to configure.
    """


def main() -> None:
    """Run the program and exit."""
    fill_closed_descriptors()
    use_utf8()
    for name in os.environ.keys() - without_settings(os.environ).keys():
        del os.environ[name]
    stop_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: closed by whoever started us
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="bptcnn")
    except UserError as error:
        complain(one_line(error))
        sys.exit(2)
    except KeyboardInterrupt:  # typer has its own exit for most of them
        sys.exit(130)
    finally:
        ignore_signals()
        STDOUT.flush()
        if STDOUT.error:
            complain(f"cannot write to standard output: {STDOUT.error}")
            sys.exit(1)

"""`bptcnn evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from bptcnn.names import path_of, text_of
from bptcnn_cli.output import console, say


def evaluate(
    run: Annotated[Path, typer.Argument(parser=path_of, metavar="RUN", help="The run folder.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="The data set whose test images are classified. Default: the run's own.",
        ),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Take the weights after the last epoch, not those of the best one.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the test accuracy of a trained network.

    \b
    Examples:
      bptcnn evaluate runs/a
      bptcnn evaluate runs/a mnist/ --json
    """
    from bptcnn.data import load as load_data
    from bptcnn.training import prepare_kernels
    from bptcnn.untrusted import printable
    from bptcnn_cli.choices import data_of_run
    from bptcnn_cli.displays import fitting_display
    from bptcnn_cli.relay import Relay

    dataset = load_data(data_of_run(run) if data is None else data)
    with Relay(fitting_display(quiet=json)) as relay:
        prepare_kernels(relay)
    from bptcnn.training import load  # compiles what was not prepared

    with load(run, last=last) as model:
        accuracy = model.evaluate(dataset)
        network = model.network.name
    images = len(dataset.test)
    if json:
        import json as encoder

        values = {
            "run": text_of(run),
            "data": printable(dataset.name),
            "network": network,
            "checkpoint": "last" if last else "best",
        }
        say(encoder.dumps({**values, "test_accuracy": accuracy, "images": images}))
        return
    console().print(f"test accuracy {accuracy:.4f} on {images:,} images of {printable(dataset.name)}", soft_wrap=True)

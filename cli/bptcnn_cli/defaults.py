"""Defaults in help texts, those of `TrainSettings`: filled in when the help is asked for, as they load numpy."""

import dataclasses
from typing import Any, get_args

from typer.core import TyperCommand, TyperOption

NETWORK = "cnn2"


class CommandWithDefaults(TyperCommand):
    """A command whose options' help may hold `{name}` of a default, or `{updates}`, `{partitions}`, `{wires}`, ..."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help."""
        texts = _texts()
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.help:
                parameter.help = parameter.help.format_map(texts)
        super().format_help(ctx, formatter)


def _texts() -> dict[str, str]:
    from bptcnn.nodes import Wire
    from bptcnn.outer import Partition, Update
    from bptcnn.precision import Precision
    from bptcnn.training.settings import TrainSettings

    texts = {name: str(value) for name, value in dataclasses.asdict(TrainSettings()).items()}
    return {
        **texts,
        "local_steps": " to ".join(map(str, TrainSettings().local_step_range())),
        "alone_local_steps": f"{TrainSettings().local_step_range()[1]} to {TrainSettings().alone_local_steps(1)}",
        "nodes": str(len(TrainSettings().nodes)),
        "network": NETWORK,
        "updates": ", ".join(get_args(Update)),
        "partitions": ", ".join(get_args(Partition)),
        "wires": ", ".join(get_args(Wire)),
        "precisions": ", ".join(get_args(Precision)),
    }

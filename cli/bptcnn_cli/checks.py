"""`bptcnn checks`."""

import typer

from bptcnn_cli.output import console


def checks() -> None:
    """Check what training needs on this machine: versions, CPU, memory, files; exit code 1 where something is broken.

    Each line that is not fine says what to do about it.
    """
    from rich.table import Table
    from rich.text import Text

    from bptcnn_cli.inspections import State, inspect_all

    styles = {State.FINE: "green", State.ADVICE: "yellow", State.BROKEN: "bold red"}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    broken = 0
    for name, finding in inspect_all():
        broken += finding.state is State.BROKEN
        found = Text(finding.found)
        if finding.remedy:
            found.append(f": {finding.remedy}", style=styles[finding.state])
        table.add_row(name, Text(finding.state.value, style=styles[finding.state]), found)
    terminal = console()
    terminal.print(table)
    if broken:
        raise typer.Exit(1)

"""Tables that lose nothing: what is wider than the terminal is printed as a list, a line for each cell."""

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

_ENDLESS = 100_000  # columns


def new_table(*headings: str) -> Table:
    """Return a table in the house's style, its columns to be added or, to be kept on one line, these."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=True)
    return table


def show_table(console: Console, table: Table) -> None:
    """Print a table; as a list where its cells would be cut."""
    options = console.options.update(width=_ENDLESS)
    if Measurement.get(console, options, table).minimum <= console.width:
        console.print(table)
        return
    headings = [" ".join(str(column.header).split()) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(cells[0], soft_wrap=True)
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for heading, cell in zip(headings[1:], cells[1:], strict=True):
            if str(cell):
                facts.add_row(heading, cell)
        console.print(Padding(facts, (0, 0, 0, 2)))


def needs_ascii(console: Console) -> bool:
    """Whether the terminal may lack the signs that pictures are made of: its encoding is none of Unicode's."""
    return console.options.ascii_only


def spinner(console: Console) -> str:
    """Return the name of a spinner that the terminal can show."""
    return "line" if needs_ascii(console) else "dots"

"""`bptcnn checks --hosts FILE`: a table of the hosts, and what is to be done about them."""

from contextlib import nullcontext
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptcnn.nodes.hosts import Host, read_hosts
from bptcnn.nodes.preflight import HostReport, preflight
from bptcnn_cli.inspections import State
from bptcnn_cli.output import console
from bptcnn_cli.plain import counted
from bptcnn_cli.tables import new_table, show_table, spinner

STYLES = {State.FINE: "green", State.ADVICE: "yellow", State.BROKEN: "bold red"}
_WIDE = 100  # columns; a narrower table has addresses below names
_MB, _GB = 1e6, 1e9
_UNKNOWN = "-"
_NUMBERS = ("cores", "memory\nGB", "disk\nGB", "ping\nms", "up\nMB/s", "down\nMB/s")


def check_hosts(path: Path, timeout: float | None = None) -> None:
    """Look at the hosts of a file and print what is found; exit code 1 where one cannot train.

    `timeout`: seconds, before what the file says. Raises UserError for a file that is none, or a time that is none.
    """
    hosts = read_hosts(path, timeout)
    terminal = console()
    reports = _inspect(terminal, hosts)
    show_table(terminal, _table(reports, terminal.width >= _WIDE))
    if any(report.problems for report in reports):
        terminal.print()
    for report in reports:
        for problem in report.problems:
            style = STYLES[State.BROKEN if problem.hard else State.ADVICE]
            line = Text.assemble(f"{report.host.name}: {problem.what}", (f": {problem.remedy}", style))
            terminal.print(line, soft_wrap=True)  # remedies are commands to copy
    if not all(report.usable for report in reports):
        raise typer.Exit(1)


def _inspect(terminal: Console, hosts: tuple[Host, ...]) -> list[HostReport]:
    def waiting() -> str:
        return f"looking at {counted(len(hosts), 'host')}, {answered} done"

    answered = 0
    moving = terminal.is_terminal and not terminal.is_dumb_terminal
    with terminal.status(waiting(), spinner=spinner(terminal)) if moving else nullcontext() as status:

        def told(report: HostReport) -> None:
            nonlocal answered
            answered += 1
            if status is not None:
                status.update(waiting())

        return preflight(hosts, told=told)


def _table(reports: list[HostReport], wide: bool) -> Table:
    """A row a host. Addresses have a column where they say more than the names and there is room."""
    addresses = any(_address(report.host) != report.host.name for report in reports)
    table = new_table()
    table.padding = (0, 2 if wide else 1, 0, 0)
    table.add_column("host", overflow="fold")
    if addresses and wide:
        table.add_column("address", overflow="fold")
    table.add_column("", no_wrap=True)
    for heading in ("Python", "bptcnn", "numba"):
        table.add_column(heading, no_wrap=True)
    for heading in _NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        state = _state(report)
        name, address = Text(report.host.name), Text(_address(report.host), style="dim")
        if addresses and wide:
            first = [name, address]
        else:
            first = [Text("\n").join([name, address]) if addresses and address.plain != name.plain else name]
        table.add_row(*first, Text(state.value, style=STYLES[state]), *_facts(report))
    return table


def _address(host: Host) -> str:
    return "this machine" if host.local else host.address + (f":{host.port}" if host.port else "")


def _state(report: HostReport) -> State:
    if not report.usable:
        return State.BROKEN
    return State.ADVICE if report.problems else State.FINE


def _facts(report: HostReport) -> list[str]:
    facts = report.facts
    if facts is None:
        return [_UNKNOWN] * (3 + len(_NUMBERS))
    link = facts.link
    numbers = (
        _scaled(facts.memory_available, _GB),
        _scaled(facts.disk_free, _GB),
        _scaled(link.latency_seconds if link else None, 1e-3),
        _scaled(link.upload if link else None, _MB),
        _scaled(link.download if link else None, _MB),
    )
    return [facts.python_version, facts.bptcnn or _UNKNOWN, facts.numba or _UNKNOWN, str(facts.cores), *numbers]


def _scaled(value: float | None, unit: float) -> str:
    """Return a number with the digits that matter: 0.42, 4.2, 42, 4,200."""
    if value is None:
        return _UNKNOWN
    scaled = value / unit
    return f"{scaled:,.0f}" if scaled >= 10 else f"{scaled:.1f}" if scaled >= 1 else f"{scaled:.2f}"

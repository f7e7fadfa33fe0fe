"""`bptcnn node`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bptcnn.errors import UserError
from bptcnn.names import path_of
from bptcnn_cli.output import complain, console

if TYPE_CHECKING:
    from bptcnn.nodes import Host
    from bptcnn.training.joining import Connection
    from bptcnn.training.visits import JoinRequest, Lost, Packet, Progress

_HOST = "A host"


def node(
    join: Annotated[
        Path,
        typer.Option(
            parser=path_of, metavar="RUN", show_default=False, help="The folder of the run, which trains here."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The node's name in the run; that of a lost node takes its place. Default: joined1, joined2, ..., or "
            "the host's.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="T", help="Default: the run's own --threads, else the cores that are free, one at least."),
    ] = None,
    speed: Annotated[
        float, typer.Option(metavar="F", help="Hold the node to this share of its threads' speed, from 0.001 to 1.")
    ] = 1.0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return as soon as the node trains; it stays until the run ends.")
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=_HOST,
            help="Start the node on this host, through ssh: with --python, else an entry of --hosts.",
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PATH", rich_help_panel=_HOST, help="The Python on the host that has bptcnn installed."),
    ] = None,
    hosts: Annotated[
        Path | None,
        typer.Option(
            parser=path_of,
            metavar="HOSTS.toml",
            rich_help_panel=_HOST,
            help="A hosts file; --host names the entry. Default: the run's own.",
        ),
    ] = None,
    host_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_HOST,
            help="Of each step of reaching the host. Default: timeout of the hosts file, else 30.",
        ),
    ] = None,
) -> None:
    """Let a node join a run that is training: here, or on a host that ssh reaches from here.

    \b
    Examples:
      bptcnn node --join runs/a                     the cores that are free here
      bptcnn node --join runs/a --speed 0.5         half of their time
      bptcnn node --join runs/a --host ann@attic --python /home/ann/bptcnn/.venv/bin/python

    The run is told to start the node; samples that have not been handed out move to it, as few as balance needs, and
    the first ones at once. The command stays until the run ends and shows how the node does. When it is interrupted
    (Ctrl-C) or killed, the node leaves: the others train its samples. With --detach it stays. RUN/nodes.json lists
    nodes, RUN/allocation.jsonl says which samples moved when.
    """
    from bptcnn.training.joining import Connection, looked_at
    from bptcnn.training.visits import JoinRequest

    lines = console()

    def told(text: str) -> None:
        lines.print(text, soft_wrap=True)

    with Connection(join) as connection:
        request = JoinRequest(name, speed, threads, detach)
        greeting = connection.meet(told)
        chosen = _host(host, python, hosts, greeting.hosts, host_timeout)
        if chosen is None:
            _Follower(join, request, told).follow(connection)
            return
    told(f"looking at {chosen.name}")  # which may take longer than a run lets anybody wait at its door
    request = looked_at(chosen, greeting, request)
    with Connection(join) as connection:
        connection.meet(told)
        _Follower(join, request, told).follow(connection)


def _host(
    address: str | None, python: str | None, hosts: Path | None, of_run: str | None, timeout: float | None
) -> "Host | None":
    """Return the host that the options name, None for this machine."""
    from bptcnn.nodes import host_from, read_hosts

    if address is None:
        for option, value in (("--python", python), ("--hosts", hosts), ("--host-timeout", timeout)):
            if value is not None:
                raise UserError(f"{option} goes with --host: name the host")
        return None
    if python is not None:
        if hosts is not None:
            raise UserError("--python and --hosts do not go together: a hosts file says which Python")
        keys = {"address": address, "python": python}
        return host_from("--host", keys if timeout is None else {**keys, "timeout": timeout})
    if hosts is None and of_run is None:
        raise UserError(f"which Python on {address}? give --python, or a hosts file with --hosts")
    path = hosts or path_of(str(of_run))
    found = read_hosts(path, timeout)
    for host in found:
        if address in (host.name, host.address):
            return None if host.local else host
    known = ", ".join(host.name for host in found)
    raise UserError(f"{path} names no host {address}, but {known}: give one of these, or --python")


class _Follower:
    """Asks, and shows what comes of it until the run ends, or until the node trains and is to stay."""

    def __init__(self, run: Path, request: "JoinRequest", told: Callable[[str], None]) -> None:
        self._run, self._request, self._told = run, request, told
        self._name = request.name or "the node"
        self._trains = False
        self._epoch = 0  # that was shown

    def follow(self, connection: "Connection") -> None:
        """Raise UserError where the node does not get to train, typer.Exit where the command ends early."""
        connection.ask(self._request)
        try:
            for packet in connection.packets():
                if self._ends(packet):
                    return
        except KeyboardInterrupt:
            complain(f"interrupted: {self._name} leaves the run in {self._run}, the others train its samples")
            raise typer.Exit(130) from None
        complain(f"the run in {self._run} is gone, and {self._name} with it")
        raise typer.Exit(1)

    def _ends(self, packet: "Packet") -> bool:
        """Show a packet; tell whether it is the last one of interest."""
        from bptcnn.training.visits import Ended, Lost, Progress, Refused, Starting

        match packet:
            case Refused():
                raise UserError(packet.reason)
            case Starting():
                self._name = packet.name
                self._told(f"{packet.name} is starting" + (f": {packet.note}" if packet.note else ""))
            case Lost():
                self._lose(packet)
            case Progress():
                self._trains = True
                if packet.epoch != self._epoch:
                    self._told(f"{self._name} trains in {_progress(packet)}")
                    self._epoch = packet.epoch
                return self._request.stay
            case Ended():
                if not self._trains:
                    raise UserError(f"the run has ended before {self._name} could train: {packet.reason}")
                self._told(f"the run has ended: {packet.outcome}, {packet.reason}")
                if packet.outcome == "failed":
                    raise typer.Exit(1)
                return True
        return False

    def _lose(self, lost: "Lost") -> None:
        from bptcnn.training import RunFolder

        if not lost.may_return and not self._trains:
            log = RunFolder(self._run).log(self._name)
            raise UserError(f"{self._name} could not start: {lost.reason}; see {log}")
        if not lost.may_return:
            complain(f"{self._name} is lost: {lost.reason}; the others train its samples")
            raise typer.Exit(1)
        self._told(f"{self._name} is lost: {lost.reason}; it is tried again")
        self._epoch = 0


def _progress(progress: "Progress") -> str:
    speed = "" if progress.images_per_second is None else f", {progress.images_per_second:,.0f} images/s"
    return (
        f"epoch {progress.epoch}/{progress.epochs}: {progress.share:.0%} of the data{speed}, "
        f"{progress.images:,} images so far"
    )

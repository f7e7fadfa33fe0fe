"""`bptcnn checks`."""

from pathlib import Path
from typing import Annotated

import typer

from bptcnn.errors import UserError
from bptcnn.names import path_of
from bptcnn_cli.output import console


def checks(
    hosts: Annotated[
        Path | None,
        typer.Option(
            parser=path_of,
            metavar="FILE",
            show_default=False,
            help="Check the machines that this file names instead of this one: .toml, or a hostfile of Open MPI.",
        ),
    ] = None,
    host_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            show_default=False,
            help="Of each step of reaching a host. Default: timeout of the file, else 30.",
        ),
    ] = None,
) -> None:
    """Check what training needs on this machine: versions, CPU, memory, files; exit code 1 where something is broken.

    Each line that is not fine says what to do about it.

    With --hosts, look at other machines instead, all at once: does ssh reach
    each without a password, is bptcnn there, how much memory and disk does it
    have, how fast is its link. Nothing is left there. A file of hosts:

    \b
      # hosts.toml
      [\\[host]]
      address = "ann@fast.example.org"      # what ssh is given
      python = "/home/ann/venv/bin/python"  # there, with bptcnn installed
      [\\[host]]
      address = "old"                       # an alias of ~/.ssh/config
      python = "/opt/python/bin/python3"
      name = "attic"                        # how bptcnn calls it
      threads = 4                           # otherwise: its usable cores
      [\\[host]]
      local = true                          # this machine, without ssh

    A host may also have port, workdir, env, a table of variables, and timeout,
    the seconds for each step of reaching it (30); timeout = S above the first
    [\\[host]] is for all of them.
    As a hostfile, a line each: ann@fast slots=8 python=/home/ann/venv/bin/python

    BPTCNN_SSH is the command to use for ssh, such as 'ssh -F FILE'.
    """
    if hosts is not None:
        from bptcnn_cli.host_checks import check_hosts

        check_hosts(hosts, host_timeout)
        return
    if host_timeout is not None:
        raise UserError("--host-timeout goes with --hosts: name the file of hosts")
    from rich.text import Text

    from bptcnn_cli.inspections import State, inspect_all
    from bptcnn_cli.tables import new_table, show_table

    styles = {State.FINE: "green", State.ADVICE: "yellow", State.BROKEN: "bold red"}
    table = new_table("check")
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
    show_table(terminal, table)
    if broken:
        raise typer.Exit(1)

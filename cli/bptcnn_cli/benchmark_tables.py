"""A benchmark as tables, and as a file."""

import dataclasses
import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptcnn.profiling.benchmarking import Benchmark, NetworkBenchmark
from bptcnn_cli.plain import counted
from bptcnn_cli.profile_tables import layer_table
from bptcnn_cli.tables import new_table, show_table


def as_json(found: Benchmark) -> str:
    """Return everything that was measured; the records' fields are the keys."""
    return json.dumps(dataclasses.asdict(found), indent=1) + "\n"


def show_benchmark(console: Console, found: Benchmark, layers: bool) -> None:
    """Print all networks, with a table of their layers each where that is asked for."""
    threads, lower = found.network[0].threads, found.network[0].precision != "float32"
    precision, of = (f", {found.network[0].precision}", " in float32") if lower else ("", "")
    console.print(
        f"{found.host.cpu}, {counted(threads, 'thread')}{precision}, "
        f"peak {found.host.peak(threads):,.0f} GFLOP/s{of}; "
        f"medians of {counted(found.rounds, 'round')} of {found.seconds:g} s"
    )
    console.print()
    show_table(console, _networks(found))
    if found.peer:
        console.print()
        show_table(console, _peers(found))
    for note in found.notes:
        console.print(Text.assemble(("note", "yellow"), f": {note}"), soft_wrap=True)
    if any(network.scaling for network in found.network):
        console.print()
        show_table(console, _scaling(found))
    if any(network.simulated for network in found.network):
        console.print()
        console.print("Simulated speed-up over one thread and idle share; at most: what the longest path allows")
        show_table(console, _simulated(found))
    for network in found.network if layers else ():
        console.print()
        console.print(Text.assemble((network.name, "bold"), ", thread time of a step"))
        show_table(console, layer_table(network.layer, network.other_ms))
    console.print()


def _networks(found: Benchmark) -> Table:
    table = new_table("network", "images", "batch", "images/s", "GFLOP/s", "of peak", "idle", "steals", "memory MB")
    for network in found.network:
        own = network.own
        speed = Text(f"{own.images_per_second:,.0f}", "bold green")
        work = f"{own.gflops:,.0f}", f"{own.peak_share:.0%}"
        scheduling = f"{network.idle_share:.1%}", f"{network.steals_per_step:,.0f}"
        memory = f"{own.memory.peak_mb:,.0f}"
        table.add_row(network.name, _shape(network), str(network.batch_size), speed, *work, *scheduling, memory)
    return table


def _peers(found: Benchmark) -> Table:
    """The peer's own figures, and how we compare."""
    table = new_table(f"\n{found.peer}", "\nimages/s", "memory\nMB", "times as\nfast: bptcnn", "its memory\nover ours")
    table.add_column("\nfastest form")
    for network in found.network:
        if network.peer is None or network.ratio is None:
            continue
        memory = network.peer.memory.peak_mb
        table.add_row(
            network.name,
            f"{network.peer.images_per_second:,.0f}",
            f"{memory:,.0f}",
            Text(f"{network.ratio:.2f}", "bold"),
            f"{memory / network.own.memory.peak_mb:.2f}",
            network.peer.variant,
        )
    return table


def _scaling(found: Benchmark) -> Table:
    """All threads, and independent copies, over one thread."""
    threads = found.network[0].threads
    speeds = "1 thread\nimages/s", f"{counted(threads, 'thread')}\nimages/s"
    table = new_table("\nnetwork", *speeds, "\nspeed-up", f"{threads} copies\nspeed-up")
    for network in found.network:
        if network.scaling is None:
            continue
        scaling = network.scaling
        speeds = f"{scaling.one_images_per_second:,.0f}", f"{scaling.all_images_per_second:,.0f}"
        table.add_row(network.name, *speeds, Text(f"{scaling.speed_up:.2f}", "bold"), f"{scaling.ceiling:.2f}")
    return table


def _simulated(found: Benchmark) -> Table:
    """Speed-up over one thread, and the idle share, for each number of threads."""
    counts = [step.threads for step in found.network[0].simulated]
    table = new_table("network", *(counted(count, "thread") for count in counts), "at most")
    for network in found.network:
        cells = [f"{step.speed_up:.1f} {step.idle_share:4.0%}" for step in network.simulated]
        table.add_row(network.name, *cells, f"{network.most_speed_up:.1f}")
    return table


def _shape(network: NetworkBenchmark) -> str:
    return "x".join(map(str, network.input_shape))

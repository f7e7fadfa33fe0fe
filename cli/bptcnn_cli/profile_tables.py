"""A profile as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptcnn.profiling import Host, LayerProfile, NetworkProfile, Profile, TuningRecord
from bptcnn_cli.plain import counted
from bptcnn_cli.tables import new_table, show_table


def show_profile(console: Console, profile: Profile, steals: float) -> None:
    """Print the host and each network, of whose steps so many tasks were stolen."""
    console.print(_host(profile.host))
    for network in profile.network:
        console.print()
        console.print(_heading(network, steals))
        show_table(console, layer_table(network.layer, network.other_ms))
    console.print()


def _host(host: Host) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("host", f"{host.name}, {host.architecture}")
    clock = f", {host.frequency_ghz:.2f} GHz" if host.frequency_ghz else ""
    table.add_row("CPU", f"{host.cpu} ({host.microarchitecture}){clock}")
    table.add_row("vector unit", host.vector_unit)
    table.add_row("usable cores", f"{host.cores}: {_cores(host)}")
    caches = ((f"L{level}", size) for level, size in enumerate((host.l1_kb, host.l2_kb, host.l3_kb), 1))
    table.add_row("caches", ", ".join(f"{name} {_size(size)}" for name, size in caches if size) or "unknown")
    table.add_row("memory", f"{host.memory_gb:.1f} GB, {host.memory_available_gb:.1f} GB available")
    peak = f"{host.peak_gflops_per_core:,.0f} GFLOP/s a core, {host.peak_gflops:,.0f} in all"
    table.add_row("peak", peak)
    table.add_row("bandwidth", f"{host.bandwidth_gbs_per_core:.1f} GB/s a core, {host.bandwidth_gbs:.1f} in all")
    return table


def _cores(host: Host) -> str:
    quota = f"a quota of {host.quota_cores:g}" if host.quota_cores else "no quota"
    return f"affinity allows {host.affinity_cores} of {host.logical_cores}, {quota}"


def _size(kilobytes: float) -> str:
    return f"{kilobytes / 1024:g} MB" if kilobytes >= 1024 else f"{kilobytes:g} KB"


def _heading(network: NetworkProfile, steals: float) -> Text:
    shape = "x".join(map(str, network.input_shape))
    return Text.assemble(
        (network.name, "bold"),
        f" on {shape} images, batches of {network.batch_size}, {counted(network.threads, 'thread')}: ",
        (f"{network.images_per_second:,.0f} images/s", "bold green"),
        f", {network.peak_share:.0%} of the peak, {network.idle_share:.1%} of the threads' time idle, "
        f"{steals:.0f} tasks a step stolen",
    )


def layer_table(layers: Sequence[LayerProfile], other_ms: float) -> Table:
    """A row a layer; thread time, so that it adds up to threads times the step."""
    table = new_table("layer", "forward\nms", "\nGFLOP/s", "\nof peak", "backward\nms", "\nGFLOP/s", "\nof peak")
    for layer in layers:
        table.add_row(
            layer.name,
            *_speed(layer.forward_ms, layer.forward_gflops, layer.forward_peak_share),
            *_speed(layer.backward_ms, layer.backward_gflops, layer.backward_peak_share),
        )
    table.add_row("other", f"{other_ms:.3f}", style="dim")
    return table


def _speed(milliseconds: float, gflops: float, share: float) -> tuple[str, str, str]:
    if not gflops:
        return f"{milliseconds:.3f}", "-", "-"
    return f"{milliseconds:.3f}", f"{gflops:,.0f}", f"{share:.0%}"


def show_tuning(console: Console, record: TuningRecord) -> None:
    """Print what was tried, the best first within a shape, and what was chosen."""
    console.print(
        f"tuned in {record.seconds:.1f} s on {counted(record.threads, 'thread')}, batches of {record.batch_size}: "
        "thread time of a step, of all layers of a shape"
    )
    table = new_table()
    table.add_column("convolution, or the whole step", overflow="fold")
    for heading in ("candidate", "by rule ms", "ms", "ratio", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in sorted(record.trial, key=lambda trial: (trial.shape, trial.ratio)):
        taken = Text("chosen" if trial.chosen else "", "bold green")
        times = f"{trial.rule_ms:.3f}", f"{trial.candidate_ms:.3f}", f"{trial.ratio:.3f}"
        table.add_row(trial.shape, trial.candidate, *times, taken)
    show_table(console, table)
    console.print()

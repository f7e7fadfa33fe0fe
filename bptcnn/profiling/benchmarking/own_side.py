"""Our side of a benchmark, one measurement a process: `python -m bptcnn.profiling.benchmarking.own_side`.

A request comes as JSON on standard input, the answer goes as one line of JSON to standard output: what was measured, or
{"refused": why} for what the user can mend.
"""

import dataclasses
import json
import sys
from typing import Any

from bptcnn.errors import UserError
from bptcnn.inner.tuning import Choice, Tuning
from bptcnn.networks import Network
from bptcnn.precision import Precision
from bptcnn.profiling.benchmarking.records import SimulatedStep
from bptcnn.profiling.benchmarking.torch_peer import MEMORY_STEPS, end_with, resident_mb
from bptcnn.profiling.steps import BATCHES, MeasuredSteps, RandomBatches

Answer = dict[str, Any]


def answer(request: dict[str, Any]) -> Answer:
    """Measure what a request asks for: "speed", "memory", "detail", "scaling" or "tuning"."""
    network = Network.from_dict(request["network"])
    batch_size, threads, precision = request["batch_size"], request["threads"], request["precision"]
    if request["measure"] == "tuning":
        from bptcnn.profiling.tunings import tuning_of, tuning_record

        return {"tuning": dataclasses.asdict(tuning_of(tuning_record(network, batch_size, threads, precision)))}
    given = request["tuning"]
    tuning = Tuning(given["ranges"], tuple(Choice(**choice) for choice in given["choices"]))
    if request["measure"] == "detail":
        return _detail(network, batch_size, threads, tuning, precision, request)
    if request["measure"] == "scaling":
        from bptcnn.profiling.benchmarking.scaling import measure_scaling  # here: as below

        about = network, batch_size, threads, tuning, precision
        return dataclasses.asdict(measure_scaling(*about, request["rounds"], request["seconds"]))
    speed = request["measure"] == "speed"
    libraries = resident_mb("VmRSS")
    batches = RandomBatches.draw(network, batch_size, BATCHES if speed else 2, as_bytes=False)  # as the peer's
    with MeasuredSteps(network, batch_size, threads, batches, tuning, precision) as steps:
        if speed:
            return {"images_per_second": batch_size / steps.median_seconds(request["seconds"])}
        for turn in range(MEMORY_STEPS):
            steps.step(turn)
        return {"peak_mb": resident_mb("VmHWM"), "libraries_mb": libraries}


def _detail(
    network: Network, batch_size: int, threads: int, tuning: Tuning, precision: Precision, request: Answer
) -> Answer:
    """Measure layers and tasks, and simulate the step on other numbers of threads."""
    from bptcnn.inner.schedule import simulate  # here: memory is measured without what only this needs
    from bptcnn.profiling.network import flops_per_image, measure_network

    found = measure_network(network, batch_size, threads, request["peak"], request["seconds"], tuning, precision)
    schedules = [simulate(found.graph, count, found.overhead) for count in request["simulate"]]
    steps = [SimulatedStep(s.threads, s.makespan / 1e6, s.speed_up, s.idle_share, s.steals) for s in schedules]
    return {
        "flops_per_image": flops_per_image(network),
        "idle_share": found.counts.idle_share,
        "steals_per_step": found.counts.steals_per_step,
        "other_ms": found.profile.other_ms,
        "layer": [dataclasses.asdict(layer) for layer in found.profile.layer],
        "tasks": len(found.graph.tasks),
        "task_overhead_ns": found.overhead,
        "most_speed_up": sum(found.graph.costs) / found.graph.ranks[0],
        "simulated": [dataclasses.asdict(step) for step in steps],
    }


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    end_with(request["parent"])
    try:
        found = answer(request)
    except UserError as error:
        found = {"refused": str(error)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""Peak memory of a process that does nothing but train a few batches, beside PyTorch's on the same network and batch.

    python benchmarks/memory.py --peer-python TORCH/bin/python [--batch 1,16,64,256] [--threads 2] [NETWORK ...]

Networks are those of the zoo, on images of 32x32x3 (lenet5 and cnn2: 28x28x1). Of PyTorch's two memory formats the one
that takes less counts. The machine need not be quiet.
"""

import argparse
import dataclasses

from bptcnn.inner.tuning import BY_RULE
from bptcnn.networks import ZOO, load_network
from bptcnn.profiling.benchmarking.cases import Case
from bptcnn.profiling.benchmarking.processes import TorchPeer, ask_own_side

_GRAY = ("lenet5", "cnn2")


def main() -> None:
    """Measure and print a row for each network, a pair of columns for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(ZOO))
    parser.add_argument("--batch", default="1,16,64,256")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", required=True)
    told = parser.parse_args()
    peer, batches = TorchPeer(told.peer_python), [int(batch) for batch in told.batch.split(",")]
    print(f"MB, bptcnn and PyTorch {peer.version()}, {told.threads} threads")
    print("| network | " + " | ".join(f"batch {batch}" for batch in batches) + " |")
    print("|---|" + "---|" * len(batches), flush=True)
    for name in told.networks:
        network = load_network(name, (28, 28, 1) if name in _GRAY else (32, 32, 3), 10)
        row = []
        for batch in batches:
            case = Case(network, batch, "float32")
            own = ask_own_side(case, told.threads, "memory", tuning=dataclasses.asdict(BY_RULE))["peak_mb"]
            theirs = min(peer.measure(case, told.threads, "memory", form)["peak_mb"] for form in peer.variants)
            row.append(f"{own:,.0f}, {theirs:,.0f}: {theirs / own:.2f}")
        print(f"| {name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

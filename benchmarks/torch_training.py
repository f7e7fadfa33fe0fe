"""PyTorch training to an accuracy, alone or by DistributedDataParallel (gloo): the peer of `accuracy.py`.

A script for any Python that has PyTorch. A request comes as JSON on standard input, one for each rank: the network as
`bptcnn.profiling.benchmarking.flattening` writes it, `data` (an .npz of images uint8 (N, H, W, C) and labels),
`threads`, `batch_size` (of a rank), `rates` (the learning rate of each epoch), `momentum`, `target`, `seed`, `rank`,
`ranks`, `port`. Rank 0 says a line of JSON for each epoch: seconds of training so far, evaluation left out, and test
accuracy.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "bptcnn" / "profiling" / "benchmarking"
sys.path.insert(0, str(FOLDER))

EVALUATION_BATCH = 500


def read_part(path: str, part: str) -> tuple[Any, Any]:
    """Return images, float32 (N, C, H, W), and labels of `train` or `test`."""
    import torch

    with np.load(path) as data:
        images = data[f"x_{part}"].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return torch.from_numpy(images), torch.from_numpy(data[f"y_{part}"].astype(np.int64))


def accuracy(model: Any, x: Any, y: Any) -> float:
    """Return the share of images that the model gets right."""
    import torch

    with torch.no_grad():
        parts = [slice(i, i + EVALUATION_BATCH) for i in range(0, len(x), EVALUATION_BATCH)]
        return sum(int((model(x[part]).argmax(1) == y[part]).sum()) for part in parts) / len(x)


def main() -> None:
    """Train as one rank."""
    told: dict[str, Any] = json.load(sys.stdin)
    import torch
    from torch import distributed, nn
    from torch_peer import TorchNetwork

    torch.set_num_threads(told["threads"])
    torch.manual_seed(told["seed"])
    rank, ranks, batch_size = told["rank"], told["ranks"], told["batch_size"]

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network = TorchNetwork(told["network"])
            self._layers, self.modules_ = network.forward, network.modules

        def forward(self, x: Any) -> Any:
            return self._layers(x)

    x, y = read_part(told["data"], "train")
    test = read_part(told["data"], "test")
    alone = Module().to(memory_format=torch.channels_last)
    model: Any = alone
    if ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(told["port"]))
        distributed.init_process_group("gloo", rank=rank, world_size=ranks)
        model = nn.parallel.DistributedDataParallel(alone)
    optimizer = torch.optim.SGD(alone.parameters(), lr=told["rates"][0], momentum=told["momentum"], foreach=True)

    def barrier() -> None:
        if ranks > 1:
            distributed.barrier()

    seconds = 0.0
    share = len(x) // (ranks * batch_size) * batch_size  # of each rank: whole batches
    for epoch, rate in enumerate(told["rates"]):
        optimizer.param_groups[0]["lr"] = rate
        barrier()
        began = time.perf_counter()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * told["seed"] + epoch))
        own = order[rank * share : (rank + 1) * share]
        for first in range(0, share, batch_size):
            chosen = own[first : first + batch_size]
            optimizer.zero_grad(set_to_none=True)
            logits = model(x[chosen].contiguous(memory_format=torch.channels_last))
            nn.functional.cross_entropy(logits, y[chosen]).backward()
            optimizer.step()
        barrier()
        seconds += time.perf_counter() - began
        reached = torch.tensor(accuracy(alone, *test) if rank == 0 else 0.0)
        if rank == 0:
            print(json.dumps({"seconds": seconds, "accuracy": float(reached)}), flush=True)
        if ranks > 1:
            distributed.broadcast(reached, 0)
        if float(reached) >= told["target"]:
            break
    if ranks > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()

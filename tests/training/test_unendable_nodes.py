"""A node whose process SIGKILL does not end, since the kernel waits in its name."""

from pathlib import Path

import pytest
from control_groups import freezer
from nodes.agents import await_end, has_ended
from training.faults import Lost
from training.runs import check_counts, data, pids, run

from bptcnn.training import EpochRow, Snapshot


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_run_goes_on_and_ends_without_it(tmp_path: Path, when: str) -> None:
    """It is lost for its silence; or the run ends before that shows."""
    folder, samples, epochs = tmp_path / "run", 600, 20 if when == "early" else 3
    frozen: list[int] = []
    notes: list[str] = []

    class Freezing(Lost):
        def progress(self, snapshot: Snapshot) -> None:
            if not frozen and when == "early":
                self.freeze()

        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            if when == "late" and row.epoch == epochs:
                self.freeze()

        def freeze(self) -> None:
            frozen.append(pids(folder)["node1"])
            group.freeze(frozen[0])

        def warning(self, message: str) -> None:
            notes.append(message)

    with freezer("bptcnn-test-run") as group:
        observer = Freezing()
        nodes = (0.3, 0.3) if when == "early" else (1.0, 1.0)
        run(folder, data(samples, 50), nodes=nodes, epochs=epochs, observer=observer)
        still_there = (
            f"its process {frozen[0]} cannot be ended now: it waits for a disk, or its control group is frozen"
        )
        if when == "early":
            assert observer.reasons == {"node1": f"silent for 4 s; {still_there}"}
        else:
            assert notes == [f"node1: {still_there}"]
        check_counts(folder, samples, epochs)
        assert not has_ended(frozen[0])
        group.thaw()
        assert not await_end(frozen)

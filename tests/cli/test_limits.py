"""What the machine does not have enough of is one line before anything starts: memory, descriptors, threads."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.programs import COMMAND, TIMEOUT_SECONDS, Ended, environment, write_npz
from control_groups import control_group, run_in

MB = 1_000_000
QUICK = ("--epochs", "1", "--threads", "1", "--no-measure", "--no-autotune", "--quiet")


def in_group(words: list[str], folder: Path, *arguments: str) -> Ended:
    done = run_in(words, [*COMMAND, "train", *arguments, *QUICK], cwd=folder, env=environment())
    return Ended(done.returncode, done.stdout, done.stderr)


def one_line(ended: Ended) -> str:
    assert ended.code == 2, ended
    assert ended.err.startswith("bptcnn: ")
    assert ended.err.count("\n") == 1, ended
    return ended.err


def test_nodes_that_do_not_fit_into_a_control_group_are_refused(tmp_path: Path) -> None:
    with control_group("memory", 500 * MB, "bptcnn-test-small") as words:
        said = one_line(in_group(words, tmp_path, "--nodes", "4", "--run-dir", "run"))
    assert "too little memory: 4 nodes need" in said
    assert "/bptcnn-test-small-" in said
    assert said.endswith(", whose limit is 500 MB; use fewer nodes or a smaller batch\n")
    assert not (tmp_path / "run").exists()


def test_nodes_that_fit_into_a_control_group_train_in_it(tmp_path: Path) -> None:
    with control_group("memory", 900 * MB, "bptcnn-test-large") as words:
        ended = in_group(words, tmp_path, "--nodes", "4", "--run-dir", "run")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("most", [3, 4, 5, 6, 8])
def test_threads_and_processes_that_cannot_be_started_are_one_line(tmp_path: Path, most: int) -> None:
    data = write_npz(tmp_path / "data.npz")
    with control_group("pids", most, "bptcnn-test-pids") as words:
        environment_ = {**environment(), "OPENBLAS_NUM_THREADS": "1"}  # it complains by itself, at numpy's import
        done = run_in(
            words,
            [*COMMAND, "train", str(data), "--nodes", "2", "--threads", "2", *QUICK[:2], *QUICK[4:]],
            cwd=tmp_path,
            env=environment_,
        )
    one_line(Ended(done.returncode, done.stdout, done.stderr))


def limited(folder: Path, soft: int, hard: int, *arguments: str) -> Ended:
    """Train with so many descriptors."""
    done = subprocess.run(
        [*COMMAND, "train", *arguments, *QUICK],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_soft_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    data = str(write_npz(tmp_path / "data.npz"))
    ended = limited(tmp_path, 14, 4096, data, "--nodes", "2", "--run-dir", "run")
    assert (ended.code, ended.err) == (0, "")


def test_where_the_hard_limit_of_descriptors_is_too_low_nothing_starts(tmp_path: Path) -> None:
    data = str(write_npz(tmp_path / "data.npz"))
    said = one_line(limited(tmp_path, 30, 40, data, "--nodes", "2", "--run-dir", "run"))
    assert "too few file descriptors: 2 nodes need" in said
    assert "limit of 40" in said
    assert "ulimit -Hn" in said
    assert not (tmp_path / "run").exists()


def test_looking_at_many_hosts_needs_descriptors(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("".join(f"h{n} python=/usr/bin/python3\n" for n in range(12)))
    said = one_line(limited(tmp_path, 30, 60, "--hosts", "hosts", "--run-dir", "run"))
    assert "too few file descriptors: to look at 12 hosts needs" in said


EATER = """
import os, sys, time
file = os.memfd_create("eaten")  # it counts for the group, and makes no process large: one of the run is killed
size = int(sys.argv[1])
os.posix_fallocate(file, 0, size)
while True:
    os.posix_fallocate(file, size, 1_000_000)
    size += 1_000_000
    time.sleep(0.025)
"""


def test_a_node_that_is_killed_for_want_of_memory_is_told_of_and_the_run_goes_on(tmp_path: Path) -> None:
    """The estimate passes, then another process of the group takes what is left."""
    data = write_npz(tmp_path / "data.npz")
    train = [*COMMAND, "train", str(data), "--epochs", "100000", "--threads", "1", "--no-measure", "--no-autotune"]
    limit = 900 * MB
    with control_group("memory", limit, "bptcnn-test-eaten") as words:
        group = Path(words[-1]).parent
        usage = next(path for name in ("memory.usage_in_bytes", "memory.current") if (path := group / name).exists())
        run = subprocess.Popen(
            [*words, *train, "--nodes", "2", "--run-dir", "run"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = []
        eaters: list[subprocess.Popen[bytes]] = []
        try:
            assert run.stdout is not None
            for line in run.stdout:
                said.append(line)
                if line.startswith("epoch 2/"):
                    left = limit - int(usage.read_text())
                    eater = [sys.executable, "-c", EATER, str(left - 30 * MB)]
                    eaters.append(subprocess.Popen([*words, *eater]))
                if line.startswith("lost "):
                    eaters[0].kill()
                    run.send_signal(signal.SIGTERM)
            code = run.wait(TIMEOUT_SECONDS)
        finally:
            for process in (run, *eaters):
                process.kill()
                process.communicate()
    lost = [line for line in said if line.startswith("lost ")]
    assert code == 130, said
    assert len(lost) == 1
    assert "its process was killed by the system: out of memory (limit 900 MB of the control group " in lost[0]
    assert "/bptcnn-test-eaten-" in lost[0]


def test_checks_tell_every_limit_of_memory(tmp_path: Path) -> None:
    def less() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8_000_000_000, 8_000_000_000))

    with control_group("memory", 500 * MB, "bptcnn-test-checks") as words:
        env = {**environment(), "COLUMNS": "400"}
        done = run_in(words, [*COMMAND, "checks"], cwd=tmp_path, env=env, preexec_fn=less)
    line = next(line for line in done.stdout.splitlines() if line.startswith("memory"))
    assert line.split()[1] == "note"
    assert "GB available of 0.5 GB in the control group " in line
    assert "whose limit is 500 MB; " in line
    assert " GB under ulimit -v 7812500" in line
    assert " GB on the whole machine" in line
    assert ": raise that limit, or train with fewer nodes" in line

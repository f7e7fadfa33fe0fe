"""What the machine does not have enough of is one line before anything starts: memory, descriptors, threads."""

import resource
import subprocess
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

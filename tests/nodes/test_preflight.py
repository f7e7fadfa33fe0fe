"""Hosts as preflight finds them: over a real sshd, in good state and in every bad one."""

import ast
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from nodes.loopback import Loopback, loopback

from bptcnn.errors import UserError
from bptcnn.nodes import preflight as module
from bptcnn.nodes import probe
from bptcnn.nodes.findings import HostFacts, Link, Question, find_problems
from bptcnn.nodes.hosts import Host
from bptcnn.nodes.preflight import HostReport, preflight
from bptcnn.nodes.ssh import Problem, aes_first, resolve
from bptcnn.profiling import NodeSpeed, usable_cores

ROOT = Path(__file__).parent.parent.parent
LONG = 100.0  # seconds, of a busy machine
SHORT = 2.0  # of what never answers
QUESTION = Question("cnn2", 64, (28, 28, 1))
HERE = probe.package_versions()
AES = probe.has_aes()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def there(sshd: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The sshd, with BPTCNN_SSH leading to it; no profile of this machine's user gets in the way."""
    monkeypatch.setenv("BPTCNN_SSH", sshd.ssh)
    return sshd


def at(alias: str, python: str | Path = sys.executable, **env: str) -> Host:
    """A host whose Python finds this very package, as an installed one would be found."""
    return Host(alias, alias, str(python), env=tuple({"PYTHONPATH": str(ROOT), **env}.items()))


def look(host: Host, question: Question | None = None, seconds: float = LONG) -> HostReport:
    host = replace(host, timeout=seconds)
    (report,) = preflight([host], question)
    assert report.host is host
    return report


def hard(report: HostReport) -> Problem:
    """Return the one problem of a host that cannot train."""
    assert not report.usable
    found = [problem for problem in report.problems if problem.hard]
    assert len(found) == 1, report
    assert (found[0].what + found[0].remedy).isprintable()
    return found[0]


def script(folder: Path, name: str, text: str, interpreter: str = "/bin/sh") -> Path:
    path = folder / name
    path.write_text(f"#!{interpreter}\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return path


def pretending(folder: Path, name: str, first: str) -> Path:
    """A Python that runs `first` before what it is given with -c."""
    text = f"import sys\ncode = sys.argv[2]\nsys.argv[:] = ['-c', *sys.argv[3:]]\n{first}\nexec(code, {{}})\n"
    return script(folder, name, text, sys.executable)


def bare_python(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")], check=True)
    return folder / "bare" / "bin" / "python"


def sockets_left() -> list[Path]:
    return list(Path("/tmp").glob("bptcnn-check-*"))


def assert_sound(report: HostReport) -> HostFacts:
    assert report.usable, report
    facts = report.facts
    assert facts is not None
    assert facts.python == sys.version_info[:3]
    assert facts.same_python
    assert {name: getattr(facts, name) for name in HERE} == HERE
    assert facts.cores == usable_cores()
    assert facts.uid == os.getuid()
    assert facts.hostname == os.uname().nodename
    assert facts.memory_available > 0
    assert facts.disk_free > 0
    assert facts.troubles == ()
    return facts


@pytest.mark.parametrize("alias", ["good", "noisy"])
def test_a_sound_host(alias: str, there: Loopback) -> None:
    before = sockets_left()
    report = look(at(alias))
    link = assert_sound(report).link
    assert isinstance(link, Link)
    assert min(link.latency_seconds, link.upload, link.download) > 0
    assert report.facts.speed is None
    assert sockets_left() == before


def test_this_machine_is_looked_at_without_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BPTCNN_SSH", "/bin/false")
    monkeypatch.chdir(tmp_path)  # what lies here is nobody's module
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    facts = assert_sound(look(Host("local", local=True), QUESTION))
    assert facts.link is None
    assert facts.executable == sys.executable


def test_modules_in_the_workdir_are_not_taken(there: Loopback, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    assert_sound(look(replace(at("good"), workdir=str(tmp_path))))


def test_the_speed_of_a_node_there(there: Loopback, tmp_path: Path) -> None:
    home = {"XDG_DATA_HOME": str(tmp_path)}
    one = look(replace(at("good", **home), threads=1), QUESTION).facts.speed
    all_cores = look(at("good", **home), QUESTION).facts.speed
    assert isinstance(one, NodeSpeed)
    assert 0 < one.cores_times_clock <= all_cores.cores_times_clock
    assert all_cores.cores_times_clock / one.cores_times_clock == pytest.approx(usable_cores())


def test_a_damaged_profile_is_no_more_than_a_note(there: Loopback, tmp_path: Path) -> None:
    profiles = tmp_path / "bptcnn" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / f"{os.uname().nodename}.toml").write_text("nonsense = 1")
    report = look(at("good", XDG_DATA_HOME=str(tmp_path)), QUESTION)
    assert report.usable
    assert any(problem.remedy == "run bptcnn profile there" for problem in report.problems)


def test_cold_kernels_are_a_note(there: Loopback, tmp_path: Path) -> None:
    report = look(at("good", BPTCNN_CACHE_DIR=str(tmp_path / "new")))
    assert report.usable
    assert report.facts.kernels_warm is False
    assert any("not compiled yet" in problem.what for problem in report.problems)


def test_a_cache_folder_that_cannot_be_written_is_a_note(there: Loopback, tmp_path: Path) -> None:
    report = look(at("good", BPTCNN_CACHE_DIR="/proc/no/such", TMPDIR=str(tmp_path)))
    assert report.usable
    assert report.facts.cache_folder.startswith(str(tmp_path))
    found = [problem for problem in report.problems if "kernels are kept in" in problem.what]
    assert len(found) == 1
    assert found[0].what.startswith("the cache folder /proc/no/such cannot be written")
    assert "BPTCNN_CACHE_DIR" in found[0].remedy


def test_a_cache_folder_that_others_can_write_is_said_to_be(there: Loopback, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    problem = hard(look(at("good", BPTCNN_CACHE_DIR=str(tmp_path / "open"))))
    assert problem.what.startswith(f"the cache folder {tmp_path / 'open'} can be written by others: chmod go-w ")
    assert "reinstall" not in problem.remedy


@pytest.mark.parametrize(
    ("alias", "what", "remedy", "passing"),
    [
        ("closed", "nothing listens on its SSH port", "see that it is on", True),
        ("unknown", "its host key is not known", "once, compare the key and accept it", False),
        ("changed", "its host key has changed", "only if the host was set up anew: ssh-keygen -f", False),
        ("strange", "no key opens it without a password", "ssh-copy-id strange", False),
        ("narrow", "it refuses to forward sockets", "AllowStreamLocalForwarding", False),
        ("flooding", "prints without end", "start-up files from printing", False),
    ],
)
def test_a_host_that_ssh_does_not_reach(alias: str, what: str, remedy: str, passing: bool, there: Loopback) -> None:
    problem = hard(look(at(alias)))
    assert what in problem.what
    assert remedy in problem.remedy
    assert problem.passing is passing


def test_a_name_that_is_not_known(there: Loopback) -> None:
    problem = hard(look(at("no.such.host.invalid")))
    assert "its name is not known" in problem.what
    assert problem.passing


def test_hosts_that_never_answer_take_no_longer_than_they_may(there: Loopback, tmp_path: Path) -> None:
    hanging = script(tmp_path, "hanging", "exec cat > /dev/null")  # ends with its input
    start = time.monotonic()
    reports = preflight([replace(host, timeout=SHORT) for host in (at("mute"), at("good", hanging))])
    assert time.monotonic() - start < LONG
    mute, silent = map(hard, reports)
    assert mute.what == "cannot be reached, it does not answer", "ssh gives up first"
    assert silent.what.startswith("did not answer (given up after ")
    for report, problem in zip(reports, (mute, silent), strict=True):
        assert f"{there.ssh} {report.host.address}" in problem.remedy
        assert problem.remedy.endswith(
            "if it is slow, give it more than 2 s: --host-timeout, or timeout in the hosts file"
        )
        assert problem.passing


def telling(folder: Path, name: str, gather: str) -> Path:
    """A Python that talks as it should, up to the facts: these are those of the expression `gather`."""
    served = f"space.update(gather=lambda question: {gather}), space['serve']()"
    return pretending(folder, name, f"code = code.replace(\"space['serve']()\", {served!r})")


def test_a_host_that_answers_no_more(there: Loopback, tmp_path: Path) -> None:
    silent = script(tmp_path, "silent", 'printf "%s[3, 11, 0]\\n" "$3"; exec cat > /dev/null')
    assert "its link stalled" in hard(look(at("good", silent), seconds=SHORT)).what
    late = telling(tmp_path, "late", "sys.stdin.buffer.read()")
    assert "did not tell about itself" in hard(look(at("good", late), seconds=2 * SHORT)).what


def test_a_host_that_answers_nonsense(there: Loopback, tmp_path: Path) -> None:
    odd = script(tmp_path, "odd", 'printf "%s[three]\\n" "$3"; exec cat > /dev/null')
    assert "answered with something else" in hard(look(at("good", odd))).what
    empty = telling(tmp_path, "empty", "dict(versions={})")
    assert "answered with something else: its answer.executable is missing" in hard(look(at("good", empty))).what


def test_a_python_that_is_not_there(there: Loopback, tmp_path: Path) -> None:
    problem = hard(look(at("good", "/no/such/python")))
    assert problem.what == "no Python at /no/such/python: there is no such file"
    script(tmp_path, "mute", "").chmod(0o644)
    assert "it cannot be executed" in hard(look(at("good", tmp_path / "mute"))).what
    crashing = script(tmp_path, "crashing", "echo 'libpython is missing' >&2; exit 3")
    assert hard(look(at("good", crashing))).what == "ended with exit code 3: libpython is missing"


def test_a_workdir_that_is_not_there(there: Loopback) -> None:
    problem = hard(look(replace(at("good"), workdir="/no/such/folder")))
    assert problem.what == "cannot enter its workdir /no/such/folder"


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 5, 2), (3, 8, 10), (3, 10, 1)])
def test_a_python_that_is_too_old(version: tuple[int, int, int], there: Loopback, tmp_path: Path) -> None:
    old = pretending(tmp_path, "old", f"sys.version_info = {version!r} + ('final', 0)")
    report = look(at("good", old))
    problem = hard(report)
    assert problem.what == f"Python {'.'.join(map(str, version))} at {old} is too old"
    assert "Python 3.11 or later" in problem.remedy
    assert (report.facts is None) == (version < (3, 6))


def test_a_python_without_bptcnn(there: Loopback, tmp_path: Path) -> None:
    python = bare_python(tmp_path)
    report = look(Host("bare", "good", str(python)))
    problem = hard(report)
    assert problem.what == f"bptcnn is missing in {python}"
    assert f"run {there.ssh} good '{python} -m pip install bptcnn==" in problem.remedy
    assert (report.facts.bptcnn, report.facts.numba, report.facts.kernels_warm) == (None, None, None)


def test_another_bptcnn(there: Loopback, tmp_path: Path) -> None:
    (tmp_path / "bptcnn").mkdir()
    (tmp_path / "bptcnn" / "__init__.py").write_text("__version__ = '0.0.9'")
    problem = hard(look(at("good", PYTHONPATH=str(tmp_path))))
    assert problem.what == f"bptcnn 0.0.9 is not this machine's {HERE['bptcnn']}"
    assert f"{sys.executable} -m pip install bptcnn=={HERE['bptcnn']}" in problem.remedy


def test_a_package_that_does_not_load(there: Loopback, tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("print('noise')\nraise ImportError('needs another\\nnumpy')")
    problem = hard(look(at("good", PYTHONPATH=f"{tmp_path}:{ROOT}")))
    assert problem.what == "bptcnn is there, but its kernels failed: ImportError: needs another numpy"


def test_all_at_once_and_in_order(there: Loopback, tmp_path: Path) -> None:
    hanging = script(tmp_path, "hanging", "exec cat > /dev/null")
    hosts = [
        Host("local", local=True),
        replace(at("mute"), timeout=SHORT),
        at("good"),
        at("closed"),
        at("changed"),
        at("strange"),
        at("noisy"),
        at("good", "/no/such/python"),
        replace(at("good", hanging), timeout=SHORT),
    ]
    told: list[HostReport] = []
    reports = preflight(hosts, QUESTION, told.append)
    assert [report.host for report in reports] == hosts
    assert {report.host for report in told} == set(hosts)
    assert [report.usable for report in reports] == [True, False, True, False, False, False, True, False, False]


@pytest.mark.parametrize("aes", [True, False])
def test_aes_is_for_cpus_that_both_have_it(there: Loopback, monkeypatch: pytest.MonkeyPatch, aes: bool) -> None:
    monkeypatch.setattr(probe, "has_aes", lambda: aes)
    report = look(at("good"))
    assert report.facts is not None
    assert report.facts.aes == AES
    assert report.options == (aes_first(resolve(report.host)) if aes and AES else ())


def test_more_hosts_than_are_looked_at_at_a_time(there: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_AT_ONCE", 2)
    hosts = [replace(at("closed"), name=f"h{number}") for number in range(7)]
    assert [report.host for report in preflight(hosts)] == hosts
    assert preflight([]) == []


def test_an_ssh_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", "/no/such/ssh")
    with pytest.raises(UserError, match="cannot run /no/such/ssh: No such file or directory: install OpenSSH"):
        preflight([at("a"), at("b")])
    monkeypatch.setenv("BPTCNN_SSH", "'")
    with pytest.raises(UserError, match="BPTCNN_SSH is"):
        preflight([at("a")])


def test_an_interrupt_ends_all_of_it(there: Loopback) -> None:
    """With what it has started: a leak would fail the test."""

    def interrupt() -> None:
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            names = [child.name() for child in psutil.Process().children()]
            if names.count("ssh") == 2:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        preflight([replace(at("mute"), name=name, timeout=10 * LONG) for name in "ab"])
    thread.join()
    assert time.monotonic() - start < 2 * LONG


def test_the_probe_reads_as_python_3_6() -> None:
    """It must run on a Python that is too old, to say so."""
    ast.parse(Path(probe.__file__).read_text(), feature_version=(3, 6))
    assert not set("!\\\n") & set(probe.BOOTSTRAP), "csh and fish read these even in quotes"


def test_the_probe_ends_with_its_input(tmp_path: Path) -> None:
    source = Path(probe.__file__).read_bytes()
    command = [sys.executable, "-c", probe.BOOTSTRAP, "mark", str(len(source))]
    for said in (b"", b"p", b"u", b"u\0\0\1\0some", b"d\0"):
        run = subprocess.run(command, input=source + said, capture_output=True, timeout=LONG)
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(b"mark[3, ")


FACTS = HostFacts(
    python=(*sys.version_info[:2], 0),
    executable="/venv/bin/python",
    bptcnn="1.0",
    numpy="2.0",
    numba="0.6",
    llvmlite="0.5",
    cloudpickle="3.0",
    cpu="a CPU",
    aes=True,
    cores=4,
    memory_available=8 * 10**9,
    disk_free=8 * 10**9,
    cache_folder="/cache",
    hostname="a",
    uid=1,
    kernels_warm=True,
    lacks_bf16="this CPU has no AVX512-BF16 instructions",
    speed=None,
    troubles=(),
    link=Link(0.001, 1e8, 1e8),
)
VERSIONS = {"bptcnn": "1.0", "numpy": "2.0", "numba": "0.6", "llvmlite": "0.5", "cloudpickle": "3.0"}


@pytest.mark.parametrize(
    ("change", "what", "is_hard"),
    [
        ({}, None, False),
        ({"bptcnn": None, "numba": None}, "bptcnn is missing in /venv/bin/python", True),
        ({"bptcnn": "1.1"}, "bptcnn 1.1 is not this machine's 1.0", True),
        ({"numba": None, "cloudpickle": None}, "numba, cloudpickle missing in /venv/bin/python", True),
        ({"numpy": "1.0"}, "numpy 1.0 is not this machine's 2.0: results may differ in the last digits", False),
        ({"llvmlite": "0.4"}, None, False),
        ({"python": (3, 10, 9)}, "Python 3.10.9 at /p is too old", True),
        ({"python": (3, 99, 1)}, "Python 3.99.1 is not this machine's", False),
        ({"troubles": (("memory", "ImportError: x"),)}, "bptcnn is there, but its memory failed: ImportError: x", True),
        ({"memory_available": 4 * 10**8}, "only 0.40 GB of memory are available", True),
        ({"memory_available": 9 * 10**8}, "only 0.90 GB of memory are available", False),
        ({"memory_available": None, "disk_free": None, "kernels_warm": None, "link": None}, None, False),
        ({"disk_free": 5 * 10**7}, "only 0.05 GB of disk are free at /cache", True),
        ({"disk_free": 5 * 10**8}, "only 0.50 GB of disk are free at /cache", False),
        ({"kernels_warm": False}, "its kernels are not compiled yet", False),
        ({"cores": 1}, "threads is 2, but it has 1 usable cores", False),
        ({"link": Link(0.1, 1e8, 1e6)}, "its link carries 1 MB/s", False),
    ],
)
def test_what_the_facts_mean(change: dict[str, object], what: str | None, is_hard: bool) -> None:
    found = find_problems(Host("a", "a", "/p", threads=2), replace(FACTS, **change), VERSIONS)
    if what is None:
        assert found == ()
        return
    assert len(found) == 1
    assert found[0].what.startswith(what)
    assert found[0].hard is is_hard
    assert found[0].remedy


@pytest.mark.parametrize("lacks", [None, "", "this CPU has no AVX512-BF16 instructions"])
def test_a_host_without_the_precision_is_refused_for_it_only(lacks: str | None) -> None:
    facts = replace(FACTS, lacks_bf16=lacks)
    assert find_problems(Host("a", "a", "/p"), facts, VERSIONS) == ()
    found = find_problems(Host("a", "a", "/p"), facts, VERSIONS, "bf16")
    assert [(problem.what, problem.hard) for problem in found] == ([(lacks, True)] if lacks else [])
    assert all("--precision float32" in problem.remedy for problem in found)


def test_a_host_tells_whether_it_has_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_VECTOR_UNIT", "generic")
    (report,) = preflight([Host("here", local=True)], replace(QUESTION, precision="bf16"))
    assert not report.usable
    assert [problem.what for problem in report.problems if problem.hard] == [
        "this CPU has no AVX512-BF16 instructions (BPTCNN_VECTOR_UNIT=generic)"
    ]

"""Command lines as shells and OpenSSH take them, and what ssh's failures are taken for."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nodes.loopback import Loopback, loopback

from bptcnn.errors import UserError
from bptcnn.nodes.hosts import Host
from bptcnn.nodes.ssh import ONE_THREAD, aes_first, by_hand, explain, remote_command, resolve, ssh_command

TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "ksh", "busybox") if shutil.which(shell)]
HOST = Host("fast", "ann@fast", "/venv/bin/python")
SECONDS = 60.0

NASTY = [
    "'",
    '"',
    "\\",
    "$HOME",
    "`id`",
    "$(id)",
    "; id",
    "&& id",
    "a b",
    "*",
    "~",
    "!",
    "!!",
    "#",
    "-n",
    "%s",
    "é",
    "",
]
ARGUMENTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20) | st.sampled_from(NASTY)
PRINTABLE = st.text(st.characters(codec="utf-8"), max_size=20).filter(str.isprintable) | st.sampled_from(NASTY)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def told_by(shell: str, command: str, folder: Path) -> tuple[list[str], dict[str, str], str]:
    """Let a shell run the command in `folder`; return the arguments, environment and folder that arrived."""
    line = [shell, *(["sh"] if shell == "busybox" else []), "-c", command]
    run = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 0, run.stderr
    arguments, environment, place = json.loads(run.stdout)
    return arguments, environment, place


@pytest.mark.parametrize("shell", SHELLS)
@given(arguments=st.lists(ARGUMENTS, max_size=4), value=PRINTABLE, name=PRINTABLE.filter(str.strip))
@example(arguments=NASTY, value=" ".join(NASTY), name='it\'s $HOME; `id` "!"')
def test_whatever_is_quoted_arrives(
    shell: str, arguments: list[str], value: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("home")
    place = name.replace("/", "_")[:40].strip(".") or "x"
    (folder / place).mkdir()
    host = Host("a", "a", sys.executable, workdir=place, env=(("VALUE", value),))
    arrived, environment, where = told_by(shell, remote_command(host, ["-c", TELL, *arguments]), folder)
    assert arrived == arguments
    assert environment["VALUE"] == value
    assert where == str(folder / place)


@pytest.mark.parametrize("shell", ["csh", "tcsh", "fish"])
def test_other_shells_take_it_too(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs the shell: apt-get install {shell}")
    (tmp_path / "a b").mkdir()
    host = Host("a", "a", sys.executable, workdir="a b", env=(("VALUE", "it's $HOME"),))
    arrived, environment, where = told_by(shell, remote_command(host, ["-c", TELL, "x y", "'"]), tmp_path)
    assert (arrived, environment["VALUE"], where) == (["x y", "'"], "it's $HOME", str(tmp_path / "a b"))


def test_folders_are_those_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("-P", "home/work", "elsewhere/work"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("CDPATH", str(tmp_path / "elsewhere"))
    for workdir, start in (("-P", ""), ("work", "home"), (str(tmp_path / "home/work"), "")):
        host = Host("a", "a", sys.executable, workdir=workdir)
        _, _, where = told_by("sh", remote_command(host, ["-c", TELL]), tmp_path / start)
        assert where == str(tmp_path / start / workdir)


def test_libraries_get_one_thread_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    host = Host("a", "a", sys.executable, env=(("OMP_NUM_THREADS", "3"),))
    _, environment, where = told_by("sh", remote_command(host, ["-c", TELL]), tmp_path)
    wanted = {**dict.fromkeys(ONE_THREAD, "1"), "OMP_NUM_THREADS": "3"}
    assert {name: environment[name] for name in ONE_THREAD} == wanted
    assert where == str(tmp_path)


def test_what_ssh_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "my ssh"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))")
    fake.chmod(0o755)
    monkeypatch.setenv("BPTCNN_SSH", f"{shlex.quote(str(fake))} -o ConnectTimeout=30 -v")
    host = Host("fast", "ann@fast", "/venv/bin/python", port=2222)
    run = subprocess.run(ssh_command(host, ["-V"], [("/tmp/there", "/tmp/here")]), stdout=-1, check=True)
    seen = json.loads(run.stdout)
    assert seen[:3] == ["-o", "ConnectTimeout=30", "-v"]  # before ours, and in ssh the first counts
    assert seen[-7:-1] == ["-p", "2222", "-R", "/tmp/there:/tmp/here", "--", "ann@fast"]
    assert seen[-1].startswith("exec env ")
    assert seen[-1].endswith(" /venv/bin/python -V")
    assert "StrictHostKeyChecking" not in " ".join(seen)
    assert "ClearAllForwardings=yes" not in seen
    assert "ClearAllForwardings=yes" in ssh_command(host, [])


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("", "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,"),
        ("Host other\nCiphers aes256-ctr\n", "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@"),
        ("Ciphers aes256-ctr,aes256-gcm@openssh.com\n", "aes256-gcm@openssh.com,aes256-ctr"),
        ("Ciphers aes256-gcm@openssh.com,aes256-ctr\n", None),
        ("Ciphers aes256-ctr\n", None),
        ("No such option\n", None),
    ],
)
def test_aes_goes_before_what_the_user_allows_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, options: str | None
) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's client: apt-get install openssh-client")
    (tmp_path / "config").write_text(lines)
    monkeypatch.setenv("BPTCNN_SSH", f"ssh -F {shlex.quote(str(tmp_path / 'config'))}")
    found = aes_first(resolve(HOST))
    if options is None:
        assert found == ()
    else:
        (option,) = found
        assert option.startswith(f"Ciphers={options}")
        resolved = subprocess.run(
            [*ssh_command(HOST, [], options=found)[:1], "-G", "-o", option, "ann@fast"], stdout=-1
        )
        assert f"ciphers {option.partition('=')[2]}\n" in resolved.stdout.decode()


def test_aes_is_not_asked_for_where_ssh_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", "/nowhere/ssh")
    assert aes_first(resolve(HOST)) == ()


def test_what_openssh_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's client: apt-get install openssh-client")
    (tmp_path / "config").write_text("Host *\nForwardAgent yes\nForwardX11 yes\nRequestTTY force\nBatchMode no\n")
    monkeypatch.setenv("BPTCNN_SSH", f"ssh -G -F {shlex.quote(str(tmp_path / 'config'))}")
    run = subprocess.run(ssh_command(HOST, ["-V"]), capture_output=True, text=True, check=True)
    effective = dict(line.split(" ", 1) for line in run.stdout.splitlines() if " " in line)
    wanted = {
        "batchmode": "yes",
        "connecttimeout": "30",
        "serveraliveinterval": "5",
        "serveralivecountmax": "3",
        "controlmaster": "false",
        "exitonforwardfailure": "yes",
        "clearallforwardings": "yes",
        "forwardagent": "no",
        "forwardx11": "no",
        "permitlocalcommand": "no",
        "requesttty": "false",
        "escapechar": "none",
        "loglevel": "ERROR",
        "streamlocalbindmask": "0177",
        "user": "ann",
        "hostname": "fast",
    }
    assert {name: effective.get(name) for name in wanted} == wanted
    assert "controlpath" not in effective or effective["controlpath"] == "none"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_bptcnn_ssh_is_ssh(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", value)
    assert ssh_command(HOST, [])[0] == "ssh"


def test_a_wrong_bptcnn_ssh_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", "ssh -F 'config")
    with pytest.raises(UserError, match=r"BPTCNN_SSH is .*: No closing quotation"):
        ssh_command(HOST, [])


@pytest.mark.parametrize("path", ["relative", "/a:b", "/a b", "/%h", "/${HOME}", "/a\\b"])
def test_sockets_that_ssh_would_read_otherwise_are_refused(path: str) -> None:
    with pytest.raises(UserError, match="cannot forward"):
        ssh_command(HOST, [], [("/tmp/there", path)])


def test_a_forwarded_socket_leads_here(sshd: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", sshd.ssh)
    there, here = str(sshd.folder / "there.sock"), str(sshd.folder / "here.sock")
    say = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'hello'); s.close()"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(here)
        listener.listen()
        listener.settimeout(SECONDS)
        command = ssh_command(Host("a", "good", sys.executable), ["-c", say, there], [(there, here)])
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.makefile("rb").read() == b"hello"
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()


def test_the_users_own_forwards_do_not_stand_in_the_way(sshd: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # as by a second connection to the same host
        forward = f"LocalForward={taken.getsockname()[1]} localhost:1"
        monkeypatch.setenv("BPTCNN_SSH", f"{sshd.ssh} -o '{forward}'")
        command = ssh_command(Host("a", "good", sys.executable), ["-c", "print(7)"])
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
    assert (run.returncode, run.stdout) == (0, "7\n"), run.stderr


def test_what_to_type_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BPTCNN_SSH", raising=False)
    assert by_hand(HOST) == "ssh ann@fast"
    monkeypatch.setenv("BPTCNN_SSH", "ssh -F 'my config'")
    host = Host("a", "a", "/my python", port=22)
    assert by_hand(host, host.python, "-V") == "ssh -F 'my config' -p 22 a ''\"'\"'/my python'\"'\"' -V'"


@pytest.mark.parametrize(
    ("code", "stderr", "what", "remedy", "passing"),
    [
        (255, "ssh: connect to host fast port 22: Connection refused", "nothing listens", "`ssh ann@fast` works", True),
        (255, "ssh: connect to host fast port 22: Connection timed out", "does not answer", "see that it is on", True),
        (255, "Connection timed out during banner exchange", "does not answer", "see that it is on", True),
        (255, "Timeout, server fast not responding.", "does not answer", "see that it is on", True),
        (255, "ssh: connect to host fast port 22: No route to host", "no way to it", "see that it is on", True),
        (255, "ssh: connect to host fast port 22: Network is unreachable", "no way to it", "see that it is on", True),
        (255, "ssh: Could not resolve hostname fast: Name or service not known", "name is not known", "works", True),
        (255, "kex_exchange_identification: Connection closed by remote host", "closed the connection", "on", True),
        (255, "client_loop: send disconnect: Broken pipe", "closed the connection", "see that it is on", True),
        (255, "Host key verification failed.", "host key is not known", "run `ssh ann@fast` once", False),
        (255, "ann@fast: Permission denied (publickey,password).", "no key opens it", "ssh-copy-id ann@fast", False),
        (255, "sign_and_send_pubkey: agent refused operation\nx", "no key opens it", "ssh-copy-id ann@fast", False),
        (255, "Error: remote port forwarding failed for listen path /x", "refuses to forward", "sshd_config", False),
        (255, "Warning: odd\n\nBad configuration option: x\n", "ssh failed: Bad configuration option: x", "try", False),
        (255, "", "ssh failed: it ended without a word", "try ssh ann@fast", False),
        (127, "env: '/venv/bin/python': No such file", "no Python at /venv/bin/python", "command -v python3", False),
        (126, "env: '/venv/bin/python': Permission denied", "it cannot be executed", "command -v python3", False),
        (1, "Traceback (most recent call last):\n  x\nOSError: odd\n", "exit code 1: OSError: odd", "--version", False),
        (3, "\x1b[2Jodd", "exit code 3:  [2Jodd".replace("  ", " "), "--version", False),
        (1, "", "without a word", "--version", False),
        (-9, "", "ended by signal 9", "run again", True),
    ],
)
def test_failures_are_explained(
    code: int, stderr: str, what: str, remedy: str, passing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BPTCNN_SSH", raising=False)
    problem = explain(HOST, code, stderr)
    assert what in problem.what
    assert remedy in problem.remedy
    assert (problem.passing, problem.hard) == (passing, True)
    assert (problem.what + problem.remedy).isprintable()


def test_a_changed_host_key_is_an_alarm() -> None:
    said = (
        "@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@@\n"
        '  ssh-keygen -f "/home/ann/.ssh/known_hosts" -R "fast"\nHost key verification failed.\n'
    )
    problem = explain(HOST, 255, said)
    assert "another machine may pose as it" in problem.what
    assert problem.remedy.endswith('set up anew: ssh-keygen -f "/home/ann/.ssh/known_hosts" -R "fast"')
    assert not problem.passing


@pytest.mark.parametrize("shell", SHELLS)
def test_a_workdir_that_is_missing(shell: str, tmp_path: Path) -> None:
    host = Host("a", "a", sys.executable, workdir="not there")
    line = [shell, *(["sh"] if shell == "busybox" else []), "-c", remote_command(host, ["-V"])]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    problem = explain(host, run.returncode, run.stderr)
    assert problem.what == "cannot enter its workdir not there"
    assert problem.remedy.startswith("make it: ssh a ")


@given(st.integers(-64, 255), st.text(max_size=300))
def test_whatever_ssh_says_is_a_line(code: int, stderr: str) -> None:
    problem = explain(HOST, code, stderr)
    assert (problem.what + problem.remedy).isprintable()
    assert len(problem.what) < 400

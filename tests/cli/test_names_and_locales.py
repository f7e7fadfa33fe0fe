"""Names of any bytes, from the command line to the last file of a run, in whatever locale; ~ after an = sign."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from programs import COMMAND, Ended, bptcnn, environment, write_npz

NETWORK = '[[layers]]\nlayer = "Flatten"\n[[layers]]\nlayer = "Dense"\nunits = 4\n'
BRIEF = ("--network", "dense.toml", "--epochs", "1", "--no-measure", "--no-autotune", "--nodes", "1", "--quiet")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALEDEF = shutil.which("localedef")
FILES = ("config.toml", "metrics.csv", "summary.json", "report.html", "best.safetensors", "last.safetensors")
NAMES = {
    "not UTF-8": b"d\xe9",
    "signs": " d\n\x1b[2J'\"$`\\%E9  é ".encode(),
    "long": b"d" * 250,
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_npz(tmp_path / "d.npz")
    (tmp_path / "dense.toml").write_text(NETWORK)
    return tmp_path


@pytest.fixture
def latin(tmp_path: Path) -> dict[str, str]:
    """The variables of a German locale in ISO-8859-1."""
    if LOCALEDEF is None or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("has no localedef, to make a locale with")
    locales = tmp_path / "locales"
    locales.mkdir()
    command = [LOCALEDEF, "-f", "ISO-8859-1", "-i", "de_DE", str(locales / "de_DE.ISO-8859-1")]
    subprocess.run(command, check=True, capture_output=True)
    return {"LOCPATH": str(locales), "LC_ALL": "de_DE.ISO-8859-1"}


def done(ended: Ended) -> str:
    """A command that has worked and has said nothing else."""
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def require_whole(run: Path, here: Path) -> None:
    """A run folder has everything, all of it in UTF-8, and the run goes on, and can be evaluated."""
    assert all((run / name).is_file() for name in FILES)
    for name in FILES[:4]:
        (run / name).read_bytes().decode()
    done(bptcnn("train", "--resume", "--run-dir", run, "--epochs", "2", "--quiet", folder=here))
    assert json.loads(done(bptcnn("evaluate", run, "--json", folder=here)))["images"] == 100


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_data_networks_and_run_folders_of_any_name(here: Path, name: bytes) -> None:
    run, folder = os.fsdecode(name), here / "x"
    folder.mkdir()
    shutil.copy(here / "d.npz", folder / f"{run}.npz")
    shutil.copy(here / "dense.toml", folder / f"{run}.toml")
    files = (f"./{run}.npz", "--run-dir", f"./{run}", *BRIEF, "--network", f"./{run}.toml")
    said = done(bptcnn("train", *files, folder=folder))
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    require_whole(folder / run, folder)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_python_files_of_any_name(here: Path, name: bytes) -> None:
    file = f"./{os.fsdecode(name)}.py"
    code = """
import bptcnn as bpt
def dataset():
    return bpt.data.load("d.npz")
def network(shape, classes):
    return bpt.Network(shape, [bpt.networks.Flatten(), bpt.networks.Dense(4)])
"""
    (here / file).write_text(code)
    done(bptcnn("train", file, *BRIEF, "--network", file, "--run-dir", "run", folder=here))
    again = ("--resume", "--run-dir", "run", "--epochs", "2", "--quiet")
    refusal = bptcnn("train", *again, folder=here)
    assert refusal.code == 2
    assert "if you trust it" in refusal.err
    done(bptcnn("train", file, *again, folder=here))


def test_a_uri_does_not_hide_that_a_file_is_code(here: Path) -> None:
    (here / "d.py").write_text("open('ran', 'w')\n")
    for key in ("data", "network"):
        (here / "config.toml").write_text(f'{key} = "file://{here}/d%2Epy"\n')
        ended = bptcnn("train", "--config", "config.toml", folder=here)
        assert ended.code == 2, ended
        assert "Python file" in ended.err
    assert not (here / "ran").exists()


def test_a_configuration_names_any_file(here: Path) -> None:
    data = os.fsdecode(b"d\xe9.npz")
    (here / "d.npz").rename(here / data)
    config = done(bptcnn("train", data, "--print-config", folder=here))
    (here / "config.toml").write_text(config, encoding="utf-8")
    done(bptcnn("train", "--config", "config.toml", "--run-dir", "run", *BRIEF, folder=here))
    require_whole(here / "run", here)


@pytest.mark.parametrize(
    "given",
    [
        ("--hosts", b"h\xe9"),
        ("--config", b"h\n"),
        ("--network", b"h" * 256 + b".toml"),
        ("--init", b"h" * 5000),
        (b"d\xe9",),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(here: Path, given: tuple[str | bytes, ...]) -> None:
    ended = bptcnn("train", *map(os.fsdecode, given), folder=here)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert ended.err.startswith("bptcnn: ")
    assert sorted(path.name for path in here.iterdir()) == ["d.npz", "dense.toml"]


@pytest.mark.parametrize("variables", [ASCII, {"PYTHONIOENCODING": "ascii:strict"}])
def test_names_are_utf8_whatever_the_locale(here: Path, variables: dict[str, str]) -> None:
    (here / "d.npz").rename(here / "dé.npz")
    said = done(bptcnn("train", "dé.npz", "--run-dir", "ré", *BRIEF, folder=here, variables=variables))
    assert said.isascii()
    assert f'data = "{here}/dé.npz"\n' in (here / "ré" / "config.toml").read_text(encoding="utf-8")
    again = ("train", "--resume", "--run-dir", "ré", "--epochs")
    shown = done(bptcnn(*again, "2", folder=here, variables=variables))
    assert "bptcnn evaluate $'r\\303\\251'" in shown, "can be copied"
    done(bptcnn(*again, "3", "--quiet", folder=here))
    require_whole(here / "ré", here)


def test_names_in_a_locale_of_one_byte_a_character(here: Path, latin: dict[str, str]) -> None:
    (here / "d.npz").rename(here / "dé.npz")
    (here / "dense.toml").write_text('name = "Å"\n' + NETWORK, encoding="utf-8")
    said = subprocess.run(
        [*COMMAND, "train", "dé.npz", *BRIEF],
        cwd=here,
        env={**environment(), **latin},
        capture_output=True,
    )
    assert (said.returncode, said.stderr) == (0, b""), said
    assert said.stdout.endswith("-Å\n".encode("iso-8859-1")), "the terminal's own encoding"
    (run,) = (here / "runs").iterdir()
    assert run.name.endswith("-Å")
    assert f'data = "{here}/dé.npz"\n' in (run / "config.toml").read_text(encoding="utf-8")
    require_whole(run, here)


def test_an_error_with_letters_that_the_terminal_lacks(here: Path) -> None:
    ended = bptcnn("train", "nö.npz", folder=here, variables=ASCII)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert "n\\xf6.npz: no such file" in ended.err


def test_a_home_folder_after_an_equals_sign(here: Path) -> None:
    """Shells expand ~ at the beginning of a word only; in a configuration nobody does."""
    home = {"HOME": str(here)}
    (here / "hosts.toml").write_text("[[host]]\nlocal = true\n")
    (here / "config.toml").write_text(
        'network = "~/dense.toml"\ndata = "~/d.npz"\nepochs = 1\nhosts = "~/hosts.toml"\n'
    )
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()

    def does(*arguments: str) -> None:
        done(bptcnn(*arguments, folder=elsewhere, variables=home))

    brief = ("--no-measure", "--no-autotune", "--hosts=~/hosts.toml", "--quiet")
    does("train", "--config=~/config.toml", "--run-dir=~/runs/a", *brief)
    assert f'hosts = "{here}/hosts.toml"' in (here / "runs/a/config.toml").read_text()
    does("train", "--resume", "--run-dir=~/runs/a", "--epochs=2", "--hosts=~/hosts.toml", "--quiet")
    does("train", "~/d.npz", "--network=~/dense.toml", "--init=~/runs/a", "--run-dir=~/runs/b", "--epochs=1", "--quiet")
    does("evaluate", "~/runs/b", "~/d.npz")
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize("name", ["../../up", "名" * 100], ids=["upwards", "long"])
def test_a_networks_name_does_not_move_the_run_folder(here: Path, name: str) -> None:
    (here / "dense.toml").write_text(f'name = "{name}"\n' + NETWORK, encoding="utf-8")
    folder = here / "a" / "b"
    folder.mkdir(parents=True)
    before = sorted(here.iterdir())
    done(bptcnn("train", "../../d.npz", *BRIEF, "--network", "../../dense.toml", folder=folder))
    assert [path.name for path in folder.iterdir()] == ["runs"]
    assert len(list((folder / "runs").iterdir())) == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"LC_ALL": "C.UTF-8"}, ("ok", "LC_ALL=C.UTF-8: utf-8")),
        (ASCII, ("note", "LC_ALL=C: ANSI_X3.4-1968", "export LC_ALL=C.UTF-8")),
        ({"LC_ALL": "xx_XX.UTF-8"}, ("note", "LC_ALL=xx_XX.UTF-8 is not installed", "export LC_ALL=C.UTF-8")),
        ({"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}, ("note", "output is ascii", "unset PYTHONIOENCODING")),
    ],
)
def test_checks_tell_the_locale(here: Path, variables: dict[str, str], told: tuple[str, ...]) -> None:
    said = done(bptcnn("checks", folder=here, home=here, variables=variables))
    line = " ".join(said.partition("\nlocale ")[2].partition("\nembedded ")[0].split())
    assert line.split()[0] == told[0], line
    assert all(part.lower() in line.lower() for part in told[1:]), line

"""A program in the place of the peer's Python: it answers as told, and keeps the requests it got."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = """#!{python}
import json, os, signal, sys
request = json.load(sys.stdin)
with open({log!r}, "a") as log:
    print(json.dumps(request), file=log)
form = (request.get("channels_last"), request.get("compile"))
answers = json.loads({answers!r})
key = request["measure"] if request["measure"] != "speed" else "speed " + str(form)
answer = answers[key]
if answer == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif answer == "silent":
    sys.exit("first line\\nlast line")
print("a library says hello")
print(answer if isinstance(answer, str) else json.dumps(answer))
"""

FAST = {
    "version": {"version": "9.9"},
    "memory": {"peak_mb": 300.0, "libraries_mb": 200.0},
    "speed (True, False)": {"images_per_second": 30.0},
    "speed (False, False)": {"images_per_second": 40.0},
    "speed (True, True)": {"images_per_second": 60.0},
    "speed (False, True)": {"failed": "RuntimeError: no compiler"},
}


class StandIn:
    """The program at `python` gives `answers`; `requests` are those it got."""

    def __init__(self, folder: Path, answers: Mapping[str, Any] | None = None) -> None:
        self.python = str(folder / "python")
        self._log = folder / "requests"
        text = json.dumps({**FAST, **(answers or {})})
        Path(self.python).write_text(PROGRAM.format(python=sys.executable, log=str(self._log), answers=text))
        Path(self.python).chmod(0o755)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was asked, in order."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


def python_without_torch(folder: Path) -> dict[str, str]:
    """Return the environment in which this Python has no PyTorch, whatever is installed."""
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    return {"PYTHONPATH": str(folder)}

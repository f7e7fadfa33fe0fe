"""Starting and commanding a link."""

import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from cpu_groups import CpuGroup

PROGRAM = Path(__file__).parent / "link.py"
ANSWER_SECONDS = 60.0  # of a busy machine


class LinkProcess:
    """`link.py` between two (namespace, device) ends; packets come through from the first answer on."""

    def __init__(self, near: tuple[str, str], far: tuple[str, str], seed: str, log: Path, group: CpuGroup) -> None:
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                group.joined([sys.executable, "-I", "-S", str(PROGRAM), *near, *far, seed]),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a terminal's interrupt is not for the network
            )
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_answer(self) -> None:
        """Wait until the link has done what it was told last; its first answer says that the devices are there."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not readable or self._process.stdout.read(3) != b"ok\n":
            raise RuntimeError(f"the link does not answer: {self._log.read_text()}")

    def tell(self, command: str) -> None:
        """Give a command of `link.py`, and wait until it is carried out."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self.await_answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the link; its devices go with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

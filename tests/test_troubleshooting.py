"""The troubleshooting page: every message that it explains is one that the code prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)


def texts(path: Path) -> Iterator[str]:
    """Yield the strings of a file; what an f-string fills in is a line's end."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def said() -> str:
    sources = [path for package in ("bptcnn", "cli/bptcnn_cli") for path in (ROOT / package).rglob("*.py")]
    return "\n\n".join(text for path in sources for text in texts(path))


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_what_the_code_says(said: str, message: str) -> None:
    for part in message.split("..."):
        assert part.strip() in said, f"nothing says {part.strip()!r}"


def test_each_has_a_cause_and_a_remedy() -> None:
    entries = re.split(r"^### .+$", PAGE, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(MESSAGES) > 20
    assert min(len(entry.split()) for entry in entries) > 9
    assert len(set(MESSAGES)) == len(MESSAGES)

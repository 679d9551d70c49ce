"""Every message that docs/troubleshooting.md explains is one that the code prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
FOLDERS = ("compress", "export", "calibration")


def template(node: ast.expr) -> str:
    """The text that an expression makes, … for each value in it; nothing for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + (template(node.right) or "…")
    return ""


def texts() -> Iterator[str]:
    """Every text in the code, with … in place of values."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from filter(None, (template(each) for each in ast.walk(tree) if isinstance(each, ast.expr)))


@pytest.fixture(scope="module")
def printed() -> str:
    """All texts of the code, one a line, several values in a row as one …."""
    return re.sub("…+", "…", "\n".join(" ".join(text.split(" ")) for text in texts()))


def pattern(message: str) -> str:
    """What a message is found by: its … is any part of one line."""
    return r"[^\n]*".join(map(re.escape, message.strip("…").split("…")))


def test_the_page_explains_messages() -> None:
    assert len(MESSAGES) > 30
    assert len({*MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_an_explained_message_is_printed_by_the_code(message: str, printed: str) -> None:
    assert re.search(pattern(message), printed), f"no text of the code is {message!r}"


def test_a_message_that_nothing_prints_is_noticed(printed: str) -> None:
    assert not re.search(pattern("…: the moon is …; use another moon"), printed)

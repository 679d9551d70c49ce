"""The hash of a module's source: it follows what the module imports, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress.core import sources

FILES = {
    "mine/__init__.py": "",
    "mine/made.py": "from mine.parts import (\n    one,\n)\nfrom . import near\nimport mine.whole as w\n",
    "mine/near.py": "def late():\n    from .parts import inner\n",
    "mine/parts/__init__.py": "one = 1\n",
    "mine/parts/inner.py": "",
    "mine/parts/other.py": "",
    "mine/whole.py": "import numpy\n",
    "mine/typed.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from mine import whole\n\nx = 1\n",
    "mine/named/__init__.py": "import importlib\n\ndef find(name):\n    return importlib.import_module(name)\n",
    "mine/named/first.py": "from mine import whole\n",
}


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], bool]]:
    """Whether a module's hash changes with a file of the package `mine`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def hash_now(module: str) -> str:
        sources.source_hash.cache_clear()
        sources.hashed.cache_clear()
        return sources.source_hash(module)

    def change(module: str, file: str) -> bool:
        importlib.import_module(module)
        before = hash_now(module)
        assert hash_now(module) == before
        (tmp_path / file).write_text(FILES[file] + "# mended\n")
        return hash_now(module) != before

    yield change
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]
    sources.source_hash.cache_clear()
    sources.hashed.cache_clear()


@pytest.mark.parametrize(
    ("module", "file", "expected"),
    [
        ("mine.made", "mine/made.py", True),
        ("mine.made", "mine/parts/__init__.py", True),  # on several lines
        ("mine.made", "mine/near.py", True),  # relatively
        ("mine.made", "mine/whole.py", True),  # as a whole
        ("mine.made", "mine/parts/inner.py", True),  # by what it imports, inside of a function
        ("mine.made", "mine/__init__.py", True),  # the package it lies in
        ("mine.made", "mine/parts/other.py", False),
        ("mine.typed", "mine/whole.py", False),  # for type checkers alone
        ("mine.named", "mine/named/first.py", True),  # by name
        ("mine.named", "mine/whole.py", True),
        ("mine.whole", "mine/made.py", False),
    ],
)
def test_a_hash_follows_imports(changed, module: str, file: str, expected: bool) -> None:
    assert changed(module, file) is expected


def modules_of(module: str) -> set[str]:
    """The modules of this project that are in a hash."""
    found: set[str] = set()
    before = sources.hashed
    try:
        sources.hashed = lambda path: found.add(str(path.relative_to(sources.HOME))) or b""  # type: ignore[assignment]
        sources.source_hash.__wrapped__(module)
    finally:
        sources.hashed = before
    return found


def test_a_pass_depends_on_what_it_runs_and_not_on_other_passes_and_readers() -> None:
    fuse, prune = modules_of("compress.passes.fuse"), modules_of("compress.passes.prune_heads")
    assert {"export/rewrites/fusions/attention.py", "export/rewrites/fusions/qkv.py"} <= fuse
    assert not any("fusions" in name for name in prune)
    assert "compress/passes/shared/pruning.py" in prune
    for found in (fuse, prune):
        assert "compress/passes/quantize.py" not in found
        assert "compress/models/families/amused.py" not in found


def test_the_readers_as_a_whole_are_all_of_them() -> None:
    found = modules_of("compress.models.families")
    assert {"compress/models/families/amused.py", "compress/models/families/rar.py"} <= found


def test_a_module_without_a_file_has_a_hash_all_the_same() -> None:
    assert sources.source_hash("sys") == sources.source_hash("no.such.module")

"""The registry: names from files and entry points, and an entry point that does not name what it says."""

from __future__ import annotations

import pytest

from compress import passes
from compress.core import registry
from compress.core.settings import InputError

GROUP = "compress.passes"
SOURCE = """
from compress.passes import Outcome, TorchPass

class HandOn(TorchPass):
    def apply(self, model, context):
        return Outcome(model)

number = 7
"""


def test_names_of_classes_and_files_are_written_alike() -> None:
    assert registry.dashed("PruneHeads") == registry.dashed("prune_heads") == "prune-heads"
    assert registry.dashed("Fuse") == "fuse"


def test_files_and_entry_points_can_be_named(installed) -> None:
    installed(SOURCE, GROUP, "hand-on = hand_on_passes:HandOn")
    found = registry.names(passes.__path__, GROUP)
    assert {"prune-heads", "hand-on"} <= set(found)
    assert "shared" not in found, "a package is what files share"
    assert registry.find("hand-on", "compress.passes", GROUP, passes.Pass).name == "hand-on"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("handing = hand_on_passes:HandOn", "names hand-on; call the entry point like it"),
        ("hand-on = hand_on_passes:number", "names no subclass of compress.passes.Pass"),
    ],
)
def test_an_entry_point_that_does_not_name_what_it_says_is_refused(installed, entry: str, words: str) -> None:
    installed(SOURCE, GROUP, entry)
    with pytest.raises(InputError) as caught:
        registry.find(entry.split(" ")[0], "compress.passes", GROUP, passes.Pass)
    assert str(caught.value) == f"compress.passes: the entry point {entry} {words}"


def test_a_file_of_ours_comes_before_an_entry_point(installed) -> None:
    installed(SOURCE, GROUP, "fuse = hand_on_passes:HandOn")
    assert registry.find("fuse", "compress.passes", GROUP, passes.Pass).__module__ == "compress.passes.fuse"

"""Notes: what is written of them, and what every reader gets back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from compress.core.settings import InputError, setting
from compress.passes import Notes
from compress.passes.shared.notes import Hoisted


@dataclass(frozen=True, kw_only=True)
class OwnNotes(Notes):
    """Notes of one pass."""

    count: int = setting(doc="something")
    reason: str | None = setting(None, doc="why, where there is a reason")


def test_what_is_none_is_left_out_and_an_empty_list_is_not() -> None:
    assert Notes().written() == {}
    assert OwnNotes(count=0, removed_layers=()).written() == {"removed_layers": [], "count": 0}


def test_every_reader_gets_back_the_notes_that_it_knows() -> None:
    own = OwnNotes(count=3, fused={"norm": 2}, hoisted=Hoisted(1, 2, 3, 4), removed_layers=(1, 3), not_built="no GPU")
    read = Notes.read(json.loads(json.dumps(own.written())))
    assert read == Notes(fused={"norm": 2}, hoisted=Hoisted(1, 2, 3, 4), removed_layers=(1, 3), not_built="no GPU")
    assert Notes.read({}) == Notes.read({"count": 3}) == Notes()


def test_a_note_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"^notes\.fused: 7 is not a mapping$"):
        Notes.read({"fused": 7})

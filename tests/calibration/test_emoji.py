"""Emoji as pictures with classes: names without skin tones, parts of whole names, and what may be mirrored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from calibration import emoji
from calibration.emoji import EVERY, Glyph, mirrorable, part_of, without_tones

LISTED = """\
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                                  ; fully-qualified     # x E1.0 grinning face
263A                                                   ; unqualified         # x E0.6 smiling face
# group: People & Body
# subgroup: hand-fingers-open
1F44B                                                  ; fully-qualified     # x E0.6 waving hand
1F44B 1F3FB                                            ; fully-qualified     # x E1.0 waving hand: light skin tone
1F468 1F3FB 200D 1F9B0                                 ; fully-qualified     # x E11.0 man: light skin tone, red hair
"""
INSTALLED = pytest.mark.skipif(
    not (emoji.FONT.is_file() and emoji.LIST.is_file()), reason=f"Debian's {emoji.PACKAGES} are not installed"
)


def forget() -> None:
    """Empty what is kept of the list and the font."""
    for kept in (emoji.glyphs, emoji.classes, emoji.labels, emoji.pictures):
        kept.cache_clear()


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short list of emoji in place of the installed one."""
    path = tmp_path / "emoji-test.txt"
    path.write_text(LISTED)
    monkeypatch.setattr(emoji, "LIST", path)
    forget()
    yield path
    forget()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("grinning face", "grinning face"),
        ("waving hand: light skin tone", "waving hand"),
        ("man: light skin tone, beard", "man: beard"),
        ("kiss: woman, man, medium skin tone, dark skin tone", "kiss: woman, man"),
        ("flag: Côte d’Ivoire", "flag: Côte d’Ivoire"),
    ],
)
def test_a_name_loses_its_skin_tones_and_nothing_else(name: str, plain: str) -> None:
    assert without_tones(name) == plain


def test_fully_qualified_emoji_are_read_with_their_subgroup(listed: Path) -> None:
    found = emoji.glyphs()
    assert [glyph.name for glyph in found] == ["grinning face", "waving hand", "waving hand", "man: red hair"]
    assert [glyph.subgroup for glyph in found] == ["face-smiling", *["hand-fingers-open"] * 3]
    assert found[3].text == "\U0001f468\U0001f3fb\u200d\U0001f9b0"
    names = ("grinning face", "waving hand", "man: red hair")
    assert emoji.classes() == ("subgroup: face-smiling", "subgroup: hand-fingers-open", *names)
    assert emoji.labels().tolist() == [[0, 2], [1, 3], [1, 3], [1, 4]]


def test_parts_take_whole_names_and_then_variants() -> None:
    of_names = [part_of(number, 0) for number in range(EVERY)]
    assert of_names.count("held_out") == of_names.count("validation") == 1
    held_out = of_names.index("held_out")
    assert {part_of(held_out, variant) for variant in range(30)} == {"held_out"}
    assert [part_of(0, variant) for variant in range(17)].count("held_out") == 1


def test_what_is_not_installed_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(emoji, "LIST", tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"none.txt is missing; install Debian's packages fonts-noto-color-emoji and"):
        emoji.glyphs()
    monkeypatch.setattr(emoji, "FONT", tmp_path / "none.ttf")
    with pytest.raises(ValueError, match=r"none.ttf is missing; install Debian's packages"):
        emoji.pictures()
    forget()


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("red apple", "Food & Drink", True),
        ("left-facing fist", "People & Body", False),
        ("three-thirty", "Travel & Places", False),
        ("flag: Japan", "Flags", False),
        ("right arrow", "Symbols", False),
        ("copyright", "Objects", True),
    ],
)
def test_what_has_a_side_is_not_mirrored(name: str, group: str, expected: bool) -> None:
    assert mirrorable(Glyph("x", name, group, "some", "train")) is expected


@INSTALLED
def test_no_held_out_name_is_in_training_and_every_trained_class_is_a_name_or_a_subgroup() -> None:
    forget()
    parts = defaultdict(set)
    for glyph in emoji.glyphs():
        parts[glyph.part].add(glyph.text)
    assert not parts["train"] & parts["held_out"] | parts["train"] & parts["validation"]
    assert len(parts["held_out"]) > 200
    trained = {glyph.name for glyph in emoji.glyphs() if glyph.part == "train"}
    held_out = {glyph.name for glyph in emoji.glyphs() if glyph.part == "held_out"}
    assert len(held_out - trained) > 100, "whole names are held out"
    assert held_out & trained, "and variants of trained names"


@INSTALLED
def test_pictures_are_on_white_and_their_classes_are_those_of_the_names() -> None:
    forget()
    images, labels = emoji.emoji_pictures("held_out", 40)
    assert images.shape == (40, 64, 64, 3)
    assert (images[:, 0, 0] == 255).mean() > 0.9
    assert images.std(axis=(1, 2, 3)).min() > 5, "no glyph is empty"
    again, _ = emoji.emoji_pictures("held_out", 40)
    assert np.array_equal(images, again)
    assert labels.max() < len(emoji.classes())
    with pytest.raises(ValueError, match="99999 held_out emoji are asked for, but there are"):
        emoji.emoji_pictures("held_out", 99999)
    forget()

"""Settings: strict parsing with places, values and suggestions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import pytest

from compress.core.settings import SHOWN, InputError, convert, digest, nearest, one_line, parse, plain, setting, shown


@dataclass(frozen=True)
class Inner:
    depth: int = setting(1, doc="levels", low=1, high=3)


@dataclass(frozen=True)
class Outer:
    ratio: float = setting(doc="share", low=0, high=1)
    kind: Literal["a", "b"] = setting("a", doc="kind")
    sizes: tuple[int, ...] = setting((1,), doc="sizes", low=1)
    inner: Inner = setting(Inner(), doc="inner")
    flag: bool = setting(False, doc="flag")
    limit: float | None = setting(None, doc="limit")
    pair: tuple[int, int] = setting((1, 2), doc="pair")
    named: dict[str, str] = setting(None, doc="named")
    some: tuple[int, ...] = setting((1, 2), doc="some", fewest=2)
    large: int = setting(0, doc="large", low=0, high=10**6)


def test_a_full_mapping_becomes_the_dataclass() -> None:
    made = parse(Outer, {"ratio": "25%", "kind": "b", "sizes": [1, 8], "inner": {"depth": 2}, "limit": 3}, "r.yaml")
    assert made == Outer(ratio=0.25, kind="b", sizes=(1, 8), inner=Inner(2), limit=3.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"ratio": 0.1, "rate": 1}, "r.yaml: unknown key 'rate'; did you mean 'ratio'?"),
        ({}, "r.yaml: 'ratio' is missing; it is needed (share)"),
        ({"ratio": 1.5}, "r.yaml.ratio: 1.5 is out of range; it must be between 0 and 1"),
        ({"ratio": "much"}, "r.yaml.ratio: 'much' is not a number"),
        ({"ratio": "1e-3"}, "r.yaml.ratio: '1e-3' is not a number; write 0.001"),
        ({"ratio": float("nan")}, "r.yaml.ratio: nan is not a number"),
        ({"ratio": True}, "r.yaml.ratio: True is not a number"),
        ({"ratio": "nan%"}, "r.yaml.ratio: 'nan%' is not a number"),
        ({"ratio": "nan"}, "r.yaml.ratio: 'nan' is not a number"),
        ({"ratio": "٣%"}, "r.yaml.ratio: '٣%' is not a number"),
        ({"ratio": "1_0%"}, "r.yaml.ratio: '1_0%' is not a number"),
        ({"ratio": 10**400}, "r.yaml.ratio: a whole number of about 398 digits is not a number"),
        ({"ratio": 0.1, "named": {"a": "x", "b": 3}}, "r.yaml.named.b: 3 is not text"),
        ({"ratio": 0.1, "some": []}, "r.yaml.some: has 0 items; at least 2 are needed"),
        ({"ratio": 0.1, "large": 10**7}, "r.yaml.large: 10000000 is out of range; it must be between 0 and 1,000,000"),
        ({"ratio": 0.1, "kind": "c"}, "r.yaml.kind: 'c' is not one of 'a', 'b'"),
        ({"ratio": 0.1, "sizes": 3}, "r.yaml.sizes: 3 is not a list"),
        ({"ratio": 0.1, "sizes": [0]}, "r.yaml.sizes: 0 is out of range; it must be at least 1"),
        ({"ratio": 0.1, "sizes": ["x"]}, "r.yaml.sizes[0]: 'x' is not a whole number"),
        ({"ratio": 0.1, "pair": [1]}, "r.yaml.pair: [1] has 1 item; 2 are needed"),
        ({"ratio": 0.1, "inner": {"depth": 4}}, "r.yaml.inner.depth: 4 is out of range; it must be between 1 and 3"),
        ({"ratio": 0.1, "flag": 1}, "r.yaml.flag: 1 is not true or false"),
        ([1], "r.yaml: [1] is not a mapping of settings"),
    ],
)
def test_every_complaint_says_where_what_and_what_would_be_right(value: object, text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(Outer, value, "r.yaml")
    assert str(caught.value) == text


def test_a_word_far_from_all_is_answered_with_the_list() -> None:
    assert nearest("zzz", ["run", "plan"]) == "known: plan, run"


def test_equal_values_have_equal_digests_whatever_their_order_and_kind() -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest(Outer(0.1)) != digest(Outer(0.2))
    assert plain(Outer(0.1))["inner"] == {"depth": 1}


@pytest.mark.parametrize(
    "value", ["it's", 1.5, None, True, [1, "a"], (1, 2), (1,), (), {"a": [1]}, {1, 2}, b"x", -7, [], {}]
)
def test_a_short_value_is_shown_as_python_writes_it(value: object) -> None:
    assert shown(value) == repr(value)


def bomb(levels: int) -> list[object]:
    """A list of 10^levels items, made of as many lists as there are levels."""
    value: list[object] = ["x" * 50] * 10
    for _ in range(levels - 1):
        value = [value] * 10
    return value


def test_a_value_of_any_size_is_shown_in_200_characters_at_once() -> None:
    itself: list[object] = []
    itself.append(itself)
    wide: dict[str, object] = {str(key): key for key in range(10**5)}
    start = time.perf_counter()
    for value in (bomb(9), itself, wide, "\n" * 10**6, b"\0" * 10**6, 10**100_000, {10**100_000: bomb(9)}):
        text = shown(value)
        assert len(text) <= SHOWN
        assert text.isprintable()
    assert time.perf_counter() - start < 0.5
    assert shown(itself) == "[" * 10 + "[...]" + "]" * 10
    assert shown(-(10**5000)) == "a whole number of about 4983 digits"
    assert shown("a" * 300) == "'" + "a" * 196 + "..."


def test_a_message_is_one_line_and_its_paths_are_cut_in_the_middle() -> None:
    assert str(InputError("a\nb\x1b[31m\u202e\udc80: wrong")) == "a\\nb\\x1b[31m\\u202e\\udc80: wrong"
    folder, name = "d" * 150, "n" * 150
    assert one_line(f"/{folder}/{name}: there is no such file") == f"/{'d' * 98}...{'n' * 97}: there is no such file"
    assert len(one_line("a word " * 10**6)) == 2000


def test_a_choice_of_words_and_truths_takes_no_number_for_a_truth() -> None:
    kind = Literal["auto", True, False]
    assert [convert(kind, value, "r") for value in ("auto", True, False)] == ["auto", True, False]
    for value, text in ((1, "1"), (0.0, "0.0"), ("true", "'true'")):
        with pytest.raises(InputError) as caught:
            convert(kind, value, "r")
        assert str(caught.value) == f"r: {text} is not one of false, true, 'auto'"

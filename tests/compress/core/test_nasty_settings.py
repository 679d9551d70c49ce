"""Whatever stands in a recipe, it is read or refused in one line; nothing else is ever raised."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import pytest

from compress.core.settings import InputError, parse
from compress.models.families import Source
from compress.models.tokenizer.model import AUTOENCODERS
from compress.passes import find, names
from compress.recipe.gates import gate_class, read_gate
from compress.recipe.recipe import Bench, Layout, TokenSource, check_names
from compress.training.tokenizer import TokenizerRecipe, TokenizerTrainSettings
from compress.training.transformer import AugmentSettings, ModelSettings, TrainRecipe, TrainSettings
from export.runtime.sampling import Sampler

itself: list[Any] = []
itself.append(itself)
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**49, 10**400, 0.0, -0.5, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), -float("inf"), "", " ", "x", "1", "1e-3", "nan", "inf%", "5%", "٣", "1_000", "../x"),
    *("\0", "\n", "\ud800", "x" * 10**5, "~nosuch-user", b"x", [], [None], [0], [-1, 1], [1] * 1000, [[1]], ["x"], {}),
    *({"": None}, {"x": {}}, {"a": 1}, itself),
)
CLASSES = (
    *(Source, TokenSource, Bench, TrainRecipe, ModelSettings, TrainSettings, AugmentSettings, TokenizerRecipe),
    *(TokenizerTrainSettings, gate_class(), Sampler, Layout, *(find(name, "test") for name in names())),
    *(config for config, _ in AUTOENCODERS.values()),
)


def refusal(read: Callable[[], object]) -> str | None:
    """The text of the refusal, if reading is refused."""
    try:
        read()
    except InputError as error:
        return str(error)
    return None


def needed(each: type, but: str) -> dict[str, Any]:
    """Values for the settings without a default, but one."""
    hints = typing.get_type_hints(each)
    return {
        field.name: value_of(hints[field.name])
        for field in dataclasses.fields(each)
        if field.init and field.name != but
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


def value_of(kind: Any) -> Any:
    """A harmless value of a type."""
    if dataclasses.is_dataclass(kind):
        return needed(typing.cast("type", kind), "")
    if typing.get_origin(kind) is tuple:
        return [8] * (1 if typing.get_args(kind)[-1] is Ellipsis else len(typing.get_args(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    return {str: "x", int: 8, float: 0.5, bool: True}[kind]


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_a_setting_takes_a_value_or_refuses_it_in_one_line(each: type) -> None:
    for field in dataclasses.fields(each):
        for value in NASTY:
            given = needed(each, field.name) | {field.name: value}
            text = refusal(lambda given=given: parse(each, given, "r.yaml:"))
            if text is not None:
                assert text.startswith("r.yaml: ")
                assert "\n" not in text
                assert len(text) < 1000


@pytest.mark.parametrize("name", names())
def test_every_number_of_a_pass_is_bounded_on_both_sides(name: str) -> None:
    found = find(name, "test")
    hints = typing.get_type_hints(found)
    for field in dataclasses.fields(found):
        if hints[field.name] in (int, float):
            assert field.metadata["low"] is not None, field.name
            assert field.metadata["high"] is not None, field.name


def test_gates_and_names_of_engines_take_a_value_or_refuse_it() -> None:
    for value in NASTY:
        assert refusal(lambda value=value: read_gate(value, "gates.yaml:")) is not None
        if isinstance(value, str):
            text = refusal(lambda value=value: check_names([value], "r.yaml: engines"))
            assert (text is None) == (value in ("x", "1", "1e-3", "nan", "1_000"))

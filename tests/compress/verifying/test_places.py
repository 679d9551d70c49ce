"""Where two models part outside of the blocks that a few pictures run through."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.core.settings import parse
from compress.models.image_model import TorchRunner
from compress.models.transformer.blocks import KeyValue
from compress.models.transformer.examples import examples, examples_of
from compress.passes import Context, PassError, find
from compress.verifying.bisect import bisect
from compress.verifying.places import by_position, partly, rows_of
from export.runtime.engine import Engine

NAMES = ("reference", "candidate")
KINDS = {
    "causal": {},
    "learned": {"positions": "learned"},
    "masked": {"order": "masked", "positions": "learned", "class_token": True, "post_norm": True},
    "next-scale": {"order": "next-scale", "positions": "learned", "modulation": "class", "scales": (1, 2, 4),
                   "grid": (4, 4), "latent_width": 8},
}  # fmt: skip


def questions(model):
    tokens = np.random.default_rng(0).integers(0, model.shape.vocabulary, (3, model.shape.length))
    return examples_of(model.shape, tokens, np.arange(3), 0)


def edited(model, edit):
    made = model.with_transformer(copy.deepcopy(model.transformer))
    with torch.no_grad():
        edit(made.transformer)
    return made


def departs(model, candidate) -> str:
    return bisect(model, candidate, NAMES, questions(model)).departs


def place(found, name):
    return next(each for each in found.places if each.name == name)


def row(number: int):
    """An edit of one row of the table of ids."""
    return lambda transformer: transformer.embedding.weight.data[number].mul_(1.5)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_class_that_no_picture_holds_is_named(kind, tiny_model) -> None:
    model = tiny_model(**KINDS[kind])
    first = model.shape.first_class
    assert departs(model, edited(model, row(first + 7))) == "class 7"
    assert departs(model, edited(model, row(first + model.shape.null_class))) == "null class"

    def swap(transformer) -> None:
        table = transformer.embedding.weight.data
        table[[first + 4, first + 9]] = table[[first + 9, first + 4]]

    found = place(bisect(model, edited(model, swap), NAMES, questions(model)), "classes")
    assert (found.looked_at, found.departs, found.others) == ("11 of 11 classes", "class 4", ("class 9",))


def test_a_class_of_a_modulated_model_is_named(tiny_model) -> None:
    model = tiny_model(**KINDS["next-scale"])

    def wrong(transformer) -> None:
        transformer.embedding.weight.data[6].mul_(1.5)

    assert departs(model, edited(model, wrong)) == "class 6"


def test_a_token_that_no_picture_holds_is_named(tiny_model) -> None:
    model = tiny_model()
    given = questions(model)
    given = replace(given, inputs=np.where(given.inputs == 5, 6, given.inputs))
    found = bisect(model, edited(model, row(5)), NAMES, given)
    assert [each.relative_error for each in found.layers] == [0.0] * 3
    assert found.departs == "token 5"
    assert place(found, "tokens").looked_at == "17 of 17 tokens, 64 positions"


def test_the_mask_token_and_a_position_are_named(tiny_model) -> None:
    model = tiny_model(**KINDS["masked"])
    assert departs(model, edited(model, row(model.shape.mask_token))) == "mask token"

    def shift(transformer) -> None:
        transformer.position.weight.data[3].add_(0.5)

    assert departs(model, edited(model, shift)) == "position 3"


def test_all_positions_off_by_one_are_the_embedding(tiny_model) -> None:
    model = tiny_model(positions="learned")

    def roll(transformer) -> None:
        transformer.position.weight.data.copy_(transformer.position.weight.data.roll(1, 0))

    assert departs(model, edited(model, roll)) == "embedding"


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_norm_and_the_head_are_told_apart(kind, tiny_model) -> None:
    model = tiny_model(**KINDS[kind])

    def norm(transformer) -> None:
        transformer.norm.weight.data[::2].mul_(1.2)

    def swap(transformer) -> None:
        head = transformer.head.weight.data
        head[[1, 2]] = head[[2, 1]]

    assert departs(model, edited(model, norm)) in {"norm", "head"}
    assert departs(model, edited(model, swap)) == "head"


def test_a_constant_added_to_every_logit_is_no_departure(tiny_model) -> None:
    model = tiny_model()
    assert model.transformer.head.bias is None
    given = questions(model)

    class Shifted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 3

    def shift(transformer) -> None:
        head = Shifted(*reversed(transformer.head.weight.shape), bias=False)
        head.weight.data.copy_(transformer.head.weight.data)
        transformer.head = head

    assert bisect(model, edited(model, shift), NAMES, given).departs == ""


class Forgetful(TorchRunner):
    """Writes the last row of one layer's cache again instead of the new one."""

    def advance(self, tokens):
        before = self.past[1]
        logits = super().advance(tokens)
        if before.key.shape[2] >= 5:
            again = [torch.cat([part, part[:, :, -1:].expand(-1, -1, tokens.shape[1], -1)], dim=2) for part in before]
            self.past[1] = KeyValue(*again)
        return logits


def test_a_stale_cache_is_named_with_its_layer_and_position(tiny_model) -> None:
    model = tiny_model(layers=3)
    stale = model.with_transformer(model.transformer)
    object.__setattr__(stale, "runner", lambda: Forgetful(stale.transformer))
    found = bisect(model, stale, NAMES, questions(model))
    assert found.departs == "cache of blocks.1"
    # Written after the call that read position 5, and read first by the next.
    assert place(found, "cache").looked_at.endswith("departs from position 6 on")


def test_another_setting_of_the_sampler_is_named(tiny_model) -> None:
    model = tiny_model()
    other = replace(model, sampler=model.sampler.changed(temperature=0.5))
    found = bisect(model, other, NAMES, questions(model))
    assert (found.departs, place(found, "sampler").looked_at) == ("sampler", "settings; temperature 0.5, not 1.0")


def test_nan_is_a_departure_of_the_layer_that_made_it(tiny_model) -> None:
    model = tiny_model(layers=3)

    def spoil(transformer) -> None:
        transformer.blocks[1].ffn.down.weight.data[0, 0] = float("nan")

    found = bisect(model, edited(model, spoil), NAMES, questions(model))
    assert found.departs == "blocks.1"
    assert found.layers[2].relative_error == 1e6


def test_a_departure_is_of_tokens_or_positions_whichever_explains_it_with_less(tiny_model) -> None:
    shape = tiny_model().shape  # 17 tokens, one position before the first
    tokens = np.array([[3, 4, 5], [4, 3, 6]])
    error = np.zeros((2, 4))
    assert rows_of(error, tokens, shape) == []
    error[0, 1] = error[1, 2] = 1.0  # both places of token 3
    assert rows_of(error, tokens, shape) == ["token 3"]
    error[:] = 0
    error[:, 2] = 1.0  # tokens 4 and 3 there, which stand elsewhere too
    assert rows_of(error, tokens, shape) == ["position 2"]
    error[0, 1] = 1.0
    assert rows_of(error, tokens, shape) == ["embedding"]


def test_what_every_class_shares_is_no_fault_of_a_class() -> None:
    assert partly(np.array([[0.0], [1.0]]), ["class 0", "class 1"]) == ["class 1"]
    assert partly(np.array([[1.0], [1.0]]), ["class 0", "class 1"]) == []


def test_errors_of_positions_are_relative_to_their_size() -> None:
    theirs = np.array([[[3.0, 4.0], [0.0, 0.0]]], dtype=np.float32)
    own = np.array([[[3.0, 4.5], [0.0, np.nan]]], dtype=np.float32)
    assert by_position(theirs, own).tolist() == [[0.1, 1e6]]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_fused_engine_of_every_kind_departs_nowhere(target, any_model, any_tokens, tmp_path) -> None:
    made, context = any_model, Context(any_model, any_tokens, 2, 0, tmp_path)
    try:
        for name, settings in (("export", {"target": target}), ("fuse", {})):
            made = parse(find(name, "t"), settings, name).run(made, context).model
    except PassError as error:
        pytest.skip(str(error))
    made.save(tmp_path)
    given = examples(any_model.shape, any_tokens.part("held_out", 3))
    found = bisect(any_model, Engine.load(tmp_path, threads=1), NAMES, given)
    assert found.departs == "", found.places
    assert [each.name for each in found.places if each.name in {"norm", "head", "sampler", "image decoder"}]

"""A foreign decoder is driven like an own one: its logits are those of PyTorch on the ids that a picture is written in.

Letters: N pictures, T tokens of a picture, V image tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from compress.models.tokenizer import PixelTokenizer
from export.adopt import AdoptionError, Writing, adopt, parameters
from export.conformance import check
from export.engine import Engine
from export.manifest import Manifest
from export.onnx_model import FILES, OnnxModel, Pictures
from export.sampling import Sampler

IMAGE_IDS = (*range(40, 50), 33, *range(51, 57))  # 17 grey levels, one of them out of order
WRITINGS = {
    "one id for one token": Writing((3, 2), IMAGE_IDS, ((1,),)),
    "classes": Writing((3, 2), IMAGE_IDS, ((1,), (2,), (3,))),
    "prompts": Writing((3, 2), IMAGE_IDS, ((5, 1, 6), (5, 2, 6), (5, 3, 6))),
    "rows that end": Writing((3, 2), IMAGE_IDS, ((1,), (2,)), row_end=(60, 61)),
    "prompts of different lengths": Writing((3, 2), IMAGE_IDS, ((5, 1, 6), (7,), (5, 4)), row_end=(62,)),
}


@dataclass(frozen=True)
class Driven:
    """An adopted decoder as an engine, and what PyTorch says."""

    engine: Engine
    model: OnnxModel
    inputs: NDArray[np.int64]
    expected: NDArray[np.float32]


def spelled(writing: Writing, label: int, tokens: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """A picture's ids, written out by hand, and where each token is predicted."""
    ids = list(writing.prompts[label])
    predicting = [len(ids) - 1]
    for place, token in enumerate(tokens[:-1]):
        ids.append(writing.image_ids[token])
        if (place + 1) % writing.grid[1] == 0:
            ids += writing.row_end
        predicting.append(len(ids) - 1)
    return ids, predicting


def make(source: ir.Model, writing: Writing) -> OnnxModel:
    """An adopted graph with grey levels for pictures."""
    made = adopt(source, writing)
    tokenizer = PixelTokenizer(17, writing.grid)
    manifest = Manifest(
        "foreign", "onnx", "onnxruntime", "growing" if made.kv_heads else "none", writing.shape, made.head_width,
        made.kv_heads, Sampler(), parameters(made.decode), files={n: FILES[n] for n in ("decode", "image_decoder")},
    )  # fmt: skip
    pictures = Pictures(tokenizer.decoder(), None, tokenizer.length, tokenizer.picture)
    return OnnxModel(made.decode, pictures.decoder_graph, manifest)


@pytest.fixture
def drive(foreign, tmp_path: Path) -> Callable[..., Driven]:
    """Adopt a foreign decoder with a writing, and score five pictures in PyTorch."""

    def run(writing: Writing, **changes: int) -> Driven:
        found = foreign(**changes)
        model = make(ir.load(found.path), writing)
        model.save(tmp_path)
        generator = np.random.default_rng(0)
        labels, tokens = np.arange(5) % len(writing.prompts), generator.integers(0, 17, size=(5, 6))
        expected = []
        for label, row in zip(labels, tokens, strict=True):
            ids, predicting = spelled(writing, int(label), row)
            given = torch.tensor([ids])
            empty = [torch.zeros(1, 2, 0, 4)] * (4 if model.manifest.kv_heads else 0)
            with torch.no_grad():
                logits = found.module(given, torch.ones_like(given), torch.arange(len(ids))[None], *empty)[0]
            expected.append(logits[0, predicting][:, list(IMAGE_IDS)].numpy())
        inputs = np.concatenate([17 + labels[:, None], tokens[:, :-1]], axis=1)
        return Driven(Engine.load(tmp_path, threads=1), model, inputs, np.stack(expected))

    return run


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
def test_logits_are_those_of_pytorch_in_one_call_and_step_by_step(drive, writing: Writing) -> None:
    driven = drive(writing)
    assert driven.expected.std() > 0.1
    np.testing.assert_allclose(driven.engine.score(driven.inputs), driven.expected, atol=1e-5)
    np.testing.assert_allclose(driven.engine.score_stepwise(driven.inputs), driven.expected, atol=1e-5)


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
def test_what_was_adopted_keeps_every_rule(drive, writing: Writing) -> None:
    assert check(drive(writing).model) == []


def test_the_likeliest_tokens_are_drawn_as_pytorch_would(drive, foreign) -> None:
    writing = WRITINGS["prompts of different lengths"]
    drawn = drive(writing).engine.draw_tokens(np.array([0, 1, 2]), sampler=Sampler(temperature=0.0))
    for label in range(3):
        ids, tokens = list(writing.prompts[label]), []
        for place in range(6):
            given = torch.tensor([ids])
            empty = [torch.zeros(1, 2, 0, 4)] * 4
            with torch.no_grad():
                logits = foreign().module(given, torch.ones_like(given), torch.arange(len(ids))[None], *empty)[0]
            tokens.append(int(logits[0, -1, list(IMAGE_IDS)].argmax()))
            ids += [IMAGE_IDS[tokens[-1]], *(writing.row_end if place % 2 else ())]
        assert drawn[label].tolist() == tokens


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
def test_a_decoder_without_a_cache_reads_everything_at_every_step(drive, writing: Writing) -> None:
    driven = drive(writing, cached=False)
    assert (driven.model.manifest.cache, driven.model.manifest.kv_heads) == ("none", ())
    np.testing.assert_allclose(driven.engine.score(driven.inputs), driven.expected, atol=1e-5)
    np.testing.assert_allclose(driven.engine.score_stepwise(driven.inputs), driven.expected, atol=1e-5)


def test_only_rows_and_columns_that_can_be_reached_are_kept(drive) -> None:
    weights = drive(WRITINGS["prompts"]).model.decode.graph.initializers
    assert tuple(weights["adopted.embedding.weight"].shape) == (17 + 5, 16)  # five ids in all prompts
    assert tuple(weights["adopted.head.weight"].shape) == (16, 17)
    assert max(value.shape[0] for name, value in weights.items() if "embedding" in name) == 22


def test_a_token_that_is_one_id_costs_three_small_lookups_at_most(drive) -> None:
    new = [node for node in drive(WRITINGS["classes"]).model.decode.graph if (node.name or "").startswith("/adopted/")]
    assert sum(node.op_type == "Gather" for node in new) <= 2
    assert not [node for node in new if node.op_type == "Slice"]


def test_the_foreign_graph_is_left_as_it_was(foreign) -> None:
    source = ir.load(foreign().path)
    before = ir.to_proto(source).SerializeToString()
    adopt(source, WRITINGS["prompts"])
    assert ir.to_proto(source).SerializeToString() == before


def test_prompts_of_different_lengths_make_every_call_read_the_classes() -> None:
    assert WRITINGS["prompts of different lengths"].shape.labelled
    assert not WRITINGS["prompts"].shape.labelled


def test_the_places_of_ids_are_worked_by_hand() -> None:
    writing = Writing((2, 2), (10, 11), ((1, 2), (3, 4)), row_end=(9,))
    assert writing.table.tolist() == [10, 11, 1, 2, 3, 4, 9]
    assert writing.lengths.tolist() == [2, 1, 2, 1]
    owner, factor, offset = writing.owners
    assert owner.tolist() == [0, 0, 1, 2, 2, 3]
    # Class 1 has the id 3: its prompt lies at 3 * 2 - 2 = 4 and 5. Image tokens lie at their own ids.
    assert (3 * factor + offset)[:2].tolist() == [4, 5]
    assert (1 * factor + offset)[[2, 3, 5]].tolist() == [1, 1, 1]
    assert (1 * factor + offset)[4] == 6


def edited(foreign, edit: Callable[[ir.Model], None]) -> ir.Model:
    """A foreign graph with something changed."""
    model = ir.load(foreign().path)
    edit(model)
    return model


def rename_input(old: str, new: str) -> Callable[[ir.Model], None]:
    """Another name for an input."""

    def edit(model: ir.Model) -> None:
        next(value for value in model.graph.inputs if value.name == old).name = new

    return edit


def halve_cache(model: ir.Model) -> None:
    """Pretend that keys are kept in fp16."""
    model.graph.inputs[3].type = ir.TensorType(ir.DataType.FLOAT16)


def forget_heads(model: ir.Model) -> None:
    """Pretend that the number of heads is not known."""
    model.graph.inputs[3].shape = ir.Shape(["batch", "heads", "past", 4])


def age(model: ir.Model) -> None:
    """Pretend that the graph is of an old opset."""
    model.opset_imports[""] = 13


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            rename_input("input_ids", "tokens"),
            "its inputs are tokens, attention_mask, position_ids, past_key_values.0.key, past_key_values.0.value, "
            "past_key_values.1.key and 1 more, its outputs logits, present.0.key, present.0.value, present.1.key, "
            "present.1.value; of a causal decoder needed are input_ids, attention_mask",
        ),
        (rename_input("past_key_values.1.value", "use_cache_branch"), "a merged decoder; give the one with past"),
        (halve_cache, "past_key_values.0.key is FLOAT16; the cache is kept in fp32: export the model in fp32"),
        (
            forget_heads,
            "past_key_values.0.key is (batch, heads, past, 4); (batch, heads, positions, width) with numbers",
        ),
        (age, "its opset is 13; export it again with opset 15 or later"),
    ],
)
def test_what_is_no_decoder_of_the_known_kind_is_said(foreign, edit, words: str) -> None:
    with pytest.raises(AdoptionError) as error:
        adopt(edited(foreign, edit), WRITINGS["classes"])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("writing", "words"),
    [
        (Writing((1, 2), (62, 63, 64), ((1,),)), "id 64 is named, but its embedding has 64 rows"),
        (Writing((1, 2), (62, 63), ((70,),)), "id 70 is named, but its embedding has 64 rows"),
    ],
)
def test_ids_that_the_decoder_does_not_know_are_named(foreign, writing: Writing, words: str) -> None:
    with pytest.raises(AdoptionError, match=words):
        adopt(ir.load(foreign().path), writing)


def test_a_writing_needs_an_id_before_the_picture_and_different_image_ids() -> None:
    with pytest.raises(ValueError, match="a decoder predicts the first token from at least one id before it"):
        Writing((1, 2), (1, 2), ((),))
    with pytest.raises(ValueError, match="two image tokens have the same id"):
        Writing((1, 2), (1, 1), ((3,),))

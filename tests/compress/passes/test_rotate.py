"""rotate: exact for every kind of model, and int8 loses less behind it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.settings import ContradictionError, InputError, parse
from compress.models.families import reference
from compress.models.transformer.embedding import EmbeddingQuantization, QuantizedEmbedding
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import parameter_count
from compress.passes import PassError
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_to import PruneTo
from compress.passes.quantize import Quantize
from compress.passes.reconstruct import Reconstruct
from compress.passes.rotate import Rotate
from compress.passes.smooth import Smooth
from export.runtime.engine import Engine

ALL: dict[str, Any] = {"stream": "auto", "values": True, "down": 16}
# Kinds of streams that the families of the other tests do not have.
STREAMS: dict[str, dict[str, Any]] = {
    "layernorm-without-biases": {"norm": "layernorm"},
    "layernorm-without-gain": {"norm": "layernorm", "norm_affine": False, "final_affine": False, "tied_head": True},
    "rmsnorm-tied": {"tied_head": True},
    "no-final-norm": {"final_norm": "none", "tied_head": True},
    "final-rmsnorm-shifts": {"final_norm": "rmsnorm-bias", "norm": "layernorm", "bias": True},
    "patches": {"order": "masked", "positions": "learned", "patch": 2, "norm": "layernorm", "registers": 2},
    "patches-tied": {"order": "masked", "positions": "learned", "patch": 2, "tied_head": True, "head_bias": True},
    "masked-tied": {
        "order": "masked",
        "positions": "learned",
        "registers": 1,
        "norm": "layernorm",
        "bias": True,
        "tied_head": True,
        "head_bias": True,
    },
    "scales": {
        "order": "next-scale",
        "grid": (7, 7),
        "scales": (1, 1, 2, 3, 7),
        "latent_width": 6,
        "positions": "learned",
        "bias": True,
    },
}


def doubled(model):
    """The model in float64."""
    return model.with_transformer(copy.deepcopy(model.transformer).double())


def logits(model, batch):
    inputs, features = batch.tensors()
    with torch.no_grad():
        return model.transformer(inputs, None if features is None else features.double()).numpy()


def apart(model, tokens, settings) -> tuple[float, Any]:
    """How far logits are from the model's own behind the pass, all in float64, and what the pass made."""
    model, batch = doubled(model), examples(model.shape, tokens.part("held_out", 3))
    outcome = Rotate(**settings).run(model, None)
    return float(np.abs(logits(outcome.model, batch) - logits(model, batch)).max()), outcome


def test_every_kind_of_model_computes_the_same_behind_it(any_model, any_tokens) -> None:
    before = {name: value.clone() for name, value in any_model.transformer.state_dict().items()}
    error, outcome = apart(any_model, any_tokens, {**ALL, "down": "none"})
    assert error < 1e-12
    assert outcome.notes.rotated[-1] == "values"
    assert ("stream" in outcome.notes.left) == ("stream" not in outcome.notes.rotated)
    assert all(torch.equal(value, any_model.transformer.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("changes", STREAMS.values(), ids=STREAMS.keys())
def test_every_kind_of_stream_can_be_rotated(changes, tiny_model, tiny_tokens) -> None:
    error, outcome = apart(tiny_model(ffn=48, **changes), tiny_tokens, {**ALL, "stream": True})
    assert error < 1e-12
    assert outcome.notes.written() == {"rotated": ["stream", "values", "down"], "left": {}, "block": 16} | (
        {"untied_bytes": outcome.notes.untied_bytes} if outcome.notes.untied_bytes else {}
    )
    after = outcome.model.transformer.state_dict()
    assert all(value.eq(1).all() for name, value in after.items() if name.endswith("_norm.weight"))


def test_in_float32_logits_are_equal_to_rounding(tiny_model, tiny_tokens, context) -> None:
    model = tiny_model(ffn=64, kv_heads=2)
    inputs = examples(model.shape, tiny_tokens.part("held_out", 3)).inputs
    made = Rotate(stream=True, values=True, down=32).run(model, context()).model
    np.testing.assert_allclose(made.score(inputs), model.score(inputs), rtol=0, atol=2e-5)
    np.testing.assert_allclose(made.score_stepwise(inputs), model.score(inputs), rtol=0, atol=2e-5)


def test_a_tied_head_becomes_a_matrix_of_its_own_only_where_a_gain_stands_before_it(tiny_model, context) -> None:
    plain = tiny_model(tied_head=True)
    outcome = Rotate(stream=True, down="none").run(plain, context())
    assert not outcome.model.transformer.config.tied_head
    assert outcome.notes.untied_bytes == 4 * 17 * 32
    assert parameter_count(outcome.model.transformer) == parameter_count(plain.transformer) + 17 * 32
    outcome = Rotate(stream=True, down="none").run(tiny_model(tied_head=True, final_affine=False), context())
    assert outcome.model.transformer.config.tied_head
    assert outcome.notes.untied_bytes is None


def test_auto_takes_the_best_block_that_divides_all_layers(tiny_model, context) -> None:
    for units, block in ((128, 32), (96, 32), (48, 16)):
        outcome = Rotate().run(tiny_model(ffn=units), context())
        assert outcome.notes.written() == {"rotated": ["down"], "left": {}, "block": block}
        assert outcome.model.transformer.config.down_rotation == block
    outcome = Rotate(values=True).run(tiny_model(), context())
    assert outcome.notes.left == {"down": "layer 0 has 40 units, which blocks of 16 do not fill"}


def outliers(model):
    """The model with a few units 64 times as large as the others, computing the same."""
    with torch.no_grad():
        for block in model.transformer.blocks:
            block.ffn.up.weight[3] *= 64
            block.ffn.down.weight[:, 3] /= 64
    return model


def test_large_units_no_longer_cost_all_others_their_codes(tiny_model, tiny_tokens, context) -> None:
    model = outliers(tiny_model(ffn=64))
    inputs = examples(model.shape, tiny_tokens.part("held_out", 8)).inputs
    settings = Quantize(activations="int8", head="float", down="same", ranges="absmax")
    errors = []
    for source in (model, Rotate().run(model, context()).model):
        scores = settings.run(source, context()).model.score(inputs)
        errors.append(float(np.square(scores - model.score(inputs)).mean()))
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("quantized", [False, True])
def test_a_rotated_model_is_saved_and_read_again(quantized, tiny_model, tiny_tokens, context, tmp_path) -> None:
    model = Rotate(**ALL).run(tiny_model(ffn=48, tied_head=True), context()).model
    if quantized:
        model = Quantize(activations="int8").run(model, context()).model
    reference.save(model, tmp_path)
    again = reference.load(tmp_path)
    assert again.transformer.config == model.transformer.config
    inputs = examples(model.shape, tiny_tokens.part("held_out", 2)).inputs
    np.testing.assert_array_equal(again.score(inputs), model.score(inputs))


@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
def test_an_engine_of_a_rotated_model_is_fused_as_others_and_computes_the_same(
    target, tiny_model, tiny_tokens, context, tmp_path
) -> None:
    model = tiny_model(ffn=64, width=64, head_width=16)
    fused = []
    for each in (model, Rotate(stream=True, values=True, down=32).run(model, context()).model):
        outcome = Fuse().run(Export(target).run(each, context()).model, context())
        fused.append(outcome.notes.fused)
    assert fused[0] == fused[1]
    outcome.model.save(tmp_path)
    batch = examples(model.shape, tiny_tokens.part("held_out", 2))
    engine = Engine.load(tmp_path, threads=1)
    np.testing.assert_allclose(engine.score(batch.inputs), model.score(batch.inputs), rtol=0, atol=2e-5)
    assert engine.manifest.stream_rotation == each.transformer.config.stream_rotation > 0


def test_smooth_leaves_what_stands_behind_a_rotation(tiny_model, context) -> None:
    rotated = Rotate(down=16).run(outliers(tiny_model(ffn=48)), context()).model
    notes = Smooth((0.5,)).run(rotated, context()).notes
    assert not any(name.endswith("ffn.down") for name in notes.alphas)


@pytest.mark.parametrize("settings", [PruneFfn(ratio=0.5), PruneTo(parameters=0.9)], ids=lambda each: each.name)
def test_rotated_units_are_not_pruned(settings, tiny_model, context) -> None:
    rotated = Rotate(down=16).run(tiny_model(ffn=48), context()).model
    with pytest.raises(PassError) as caught:
        settings.run(rotated, context())
    name = settings.name
    assert str(caught.value) == f"{name}: ffn.down reads its units rotated in blocks of 16; put {name} before rotate"


def test_a_rotated_stream_is_not_repaired_towards_one_that_is_not(tiny_model, context) -> None:
    rotated = Rotate(stream=True, down="none").run(tiny_model(), context()).model
    with pytest.raises(PassError) as caught:
        Reconstruct().run(rotated, context())
    assert str(caught.value) == (
        "reconstruct: the stream is rotated, and the reference's is not; put rotate behind what is repaired"
    )


@pytest.mark.parametrize(
    ("changes", "settings", "text"),
    [
        (
            {"positions": "learned", "modulation": "class"},
            {"stream": True},
            "stream: true, but modulation by class scales and shifts the stream's channels one by one; "
            "use stream: auto or false",
        ),
        (
            {},
            {"down": 32},
            "down: 32, but layer 0 has 40 units, which blocks of 32 do not fill; use down: auto or none",
        ),
        ({"down_rotation": 8}, {}, "nothing can be rotated: the units are rotated already"),
        (
            {"down_rotation": 8, "stream_rotation": 1},
            {"stream": "auto"},
            "nothing can be rotated: the stream is rotated already, and the units are rotated already",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(changes, settings, text, tiny_model, context) -> None:
    with pytest.raises(PassError) as caught:
        Rotate(**settings).run(tiny_model(**changes), context())
    assert str(caught.value) == f"rotate: {text}"


def test_a_quantized_model_is_refused(tiny_model, context) -> None:
    with pytest.raises(PassError, match="rotate: the model has 15 quantized layers; put rotate before quantize"):
        Rotate().run(Quantize().run(tiny_model(), context()).model, context())
    model = tiny_model()
    model.transformer.embedding = QuantizedEmbedding.of(model.transformer.embedding, EmbeddingQuantization("int8"))
    with pytest.raises(PassError, match="rotate: the table of embeddings is quantized; put rotate before quantize"):
        Rotate().run(model, context())


def test_settings_that_rotate_nothing_are_refused() -> None:
    with pytest.raises(ContradictionError, match="stream false, values false and down none: nothing is left to rotate"):
        Rotate(down="none")
    with pytest.raises(InputError, match=r"rotate\.down: 48 is not one of 128, 16, 32, 64, 'auto', 'none'"):
        parse(Rotate, {"down": 48}, "rotate")

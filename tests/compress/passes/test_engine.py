"""`engine` puts sampling into the graph, or says why it stays outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.core.settings import InputError
from compress.measure.speed.timing import Timings
from compress.models.artifact import Form
from compress.passes import PassError, find
from compress.passes import engine as module
from compress.passes.engine import Engine
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from export.graph.onnx_model import OnnxModel
from export.runtime.engine import Engine as Loaded
from export.runtime.sampling import Sampler


@pytest.fixture(scope="module")
def held() -> dict[str, OnnxModel]:
    """Holds the exported models of these tests."""
    return {}


@pytest.fixture
def exported(held, tiny_model, context):
    """A model of one layer, exported once for each target."""

    def make(target: str, fixed_batch: int = 0) -> OnnxModel:
        key = f"{target}{fixed_batch}"
        if key not in held:
            held[key] = Export(target, fixed_batch=fixed_batch).run(tiny_model(layers=1), context()).model
        return held[key]

    return make


def test_engine_takes_and_gives_onnx_exactly_and_without_tokens() -> None:
    assert find("engine", "recipe") is Engine
    assert (Engine.accepts, Engine.returns, Engine.exact, Engine.uses_tokens) == (Form.ONNX, Form.ONNX, True, False)


@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
def test_sampling_is_put_into_the_graph_once(target, exported, context) -> None:
    outcome = Engine().run(exported(target), context())
    assert outcome.notes.written() == {"sampling": "in the graph"}
    assert outcome.model.manifest.sampling
    assert [each.name for each in outcome.model.decode.graph.outputs][-1] == "drawn"
    assert not exported(target).manifest.sampling
    again = Engine().run(outcome.model, context())
    assert again.notes.written() == {"sampling": "was in the graph already"}
    assert again.model is outcome.model


def test_sampling_may_be_left_outside(exported, context) -> None:
    outcome = Engine(sampling=False).run(exported("standard"), context())
    assert outcome.notes.written() == {}
    assert outcome.model is exported("standard")


def test_where_the_graph_cannot_sample_the_notes_say_why(exported, context) -> None:
    notes = Engine().run(exported("tensorrt"), context()).notes
    assert notes.written() == {"sampling": "outside: TensorRT sorts too few logits"}
    notes = Engine().run(exported("standard", 2), context()).notes
    assert notes.written() == {
        "sampling": "outside: with a fixed batch, the rows of a picture may be drawn in two calls"
    }


def test_one_file_is_written_beside_the_others(exported, context, tmp_path) -> None:
    outcome = Engine(single_file=True).run(exported("onnxruntime"), context())
    assert outcome.notes.single_file.startswith("generate.onnx, ")
    outcome.model.save(tmp_path)
    loaded = Loaded.load(tmp_path, threads=1)
    tokens, _ = loaded.draw_in_one(np.arange(2), 3)
    np.testing.assert_array_equal(tokens, loaded.draw_tokens(np.arange(2), 3))


def test_what_cannot_sample_inside_cannot_be_one_file(exported, context) -> None:
    with pytest.raises(PassError) as error:
        Engine(single_file=True).run(exported("tensorrt"), context())
    assert str(error.value) == (
        "engine: single_file: true needs sampling inside the graph; outside: TensorRT sorts too few logits"
    )


@pytest.mark.parametrize(("seconds", "kept"), [((0.2, 0.1), True), ((0.1, 0.2), False), ((0.1, 0.1), False)])
def test_only_an_alternative_that_is_measurably_faster_is_kept(seconds, kept, exported, context, monkeypatch) -> None:
    fused = Fuse().run(exported("onnxruntime"), context()).model
    drawn = []

    def timings(runners, repeats):
        drawn.extend(run() for run in runners.values())
        return Timings({name: (each,) * repeats for name, each in zip(runners, seconds, strict=True)})

    monkeypatch.setattr(module, "paired", timings)
    outcome = Engine(tune=True).run(fused, context())
    speedup = seconds[0] / seconds[1]
    text = f"{speedup:.3f}x ({speedup:.3f} to {speedup:.3f})" + (", kept" if kept else "")
    # heads of 8 are not fused into GroupQueryAttention, so query, key and value have no alternative
    assert outcome.notes.tuned == {"gate-up apart": text, "norms apart": text}
    assert all((tokens == drawn[0]).all() for tokens in drawn)
    splits = sum(node.op_type == "SkipSimplifiedLayerNormalization" for node in outcome.model.decode.graph)
    assert (splits == 0) is kept


def test_options_of_providers_go_into_the_manifest_beside_those_that_are_there(exported, context) -> None:
    given = {"cuda": {"use_tf32": "0"}}
    outcome = Engine(sampling=False, provider_options=given).run(exported("standard"), context())
    assert outcome.model.manifest.provider_options == given
    more = Engine(sampling=False, provider_options={"webgpu": {"enableInt64": "1"}}).run(outcome.model, context())
    assert more.model.manifest.provider_options == {**given, "webgpu": {"enableInt64": "1"}}
    with pytest.raises(InputError, match="provider_options: 'gpu' is not one of cuda, tensorrt-rtx, directml, webgpu"):
        Engine(provider_options={"gpu": {}})


def test_a_captured_engine_samples_without_branches(exported, context) -> None:
    model = exported("onnxruntime")
    sampled = replace(model, manifest=replace(model.manifest, sampler=Sampler(top_k=5)))
    kinds = [
        {node.op_type for node in Engine(captured=each).run(sampled, context()).model.decode.graph.all_nodes()}
        for each in (False, True)
    ]
    assert "If" in kinds[0]
    assert not kinds[1] & {"If", "Neg"}

"""Engines draw with plans of all their graphs what PyTorch draws, and logits stay on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tensorrt_stand_in import Library

from calibration.tokens import TokenSet
from compress.passes import Context
from compress.passes.export import Export
from export.building.profiles import Rows
from export.rewrites.hoist import hoist
from export.runtime import plan_loop
from export.runtime.drawing import Known
from export.runtime.engine import Engine
from export.runtime.errors import UnsoundLogitsError
from export.runtime.graphs import Graphs
from export.runtime.plan_loop import PlanLoop
from export.runtime.sampling import Sampler

KINDS = ("grouped", "lead", "modulated", "text", "masked", "u-vit", "class token", "next-scale", "next-scale shared")
HOISTED = ("lead", "masked", "u-vit", "next-scale")


@pytest.fixture
def engine_on(exported: Callable[..., Any], on_stand_in: Callable[..., Any]) -> Callable[..., tuple[Engine, Library]]:
    """An engine of a kind, hoisted where the name says so, with plans that a stand-in runs."""

    def make(kind: str, builder: str = "tensorrt-rtx", **more: Any) -> tuple[Engine, Library]:
        name = kind.removesuffix(" hoisted")
        model = exported(name, "tensorrt")
        folder, library = on_stand_in(hoist(model).model if kind != name else model, builder, **more)
        return Engine.load(folder, threads=1, require_plan=True), library

    return make


def loop_of(engine: Engine, rows: int) -> PlanLoop:
    """A loop of its plans."""
    loop = engine._loop(rows)
    assert isinstance(loop, PlanLoop)
    return loop


@pytest.fixture
def no_logits_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may ask for them."""
    monkeypatch.setattr(plan_loop, "on_host", lambda logits: pytest.fail("logits are copied to the host"))


@pytest.mark.usefixtures("no_logits_on_the_host")
@pytest.mark.parametrize("kind", [*KINDS, *(f"{kind} hoisted" for kind in HOISTED)])
def test_plans_draw_what_torch_draws(engine_on, model_of, examples_of, kind) -> None:
    name = kind.removesuffix(" hoisted")
    engine, _ = engine_on(kind)
    model, features = model_of(name), examples_of(name).features
    assert (engine.runtime, engine.runs_as_deployed) == ("tensorrt", True)
    labels = np.arange(3) % max(model.classes, 1)
    for sampler in (
        Sampler(cfg_scale=2.5, temperature=0.9, top_k=9, steps=5),  # 6 rows in parts of at most 3
        Sampler(top_p=0.8, steps=4, reveal="halton"),
        Sampler(temperature=0, steps=3, reveal="logit"),
    ):
        for seed in (3, 4):  # what an earlier picture left in the cache is not seen
            expected = model.draw_tokens(labels, seed, sampler, features)
            assert (engine.draw_tokens(labels, seed, sampler, features) == expected).all()


@pytest.mark.parametrize("pictures", [1, 2, 5])
@pytest.mark.parametrize("builder", ["tensorrt", "tensorrt-rtx"])
def test_any_number_of_pictures_is_drawn(engine_on, model_of, builder, pictures) -> None:
    engine, _ = engine_on("grouped", builder)
    labels = np.arange(pictures)
    expected = model_of("grouped").draw_tokens(labels, 3)
    assert (engine.draw_tokens(labels, 3) == expected).all()


@pytest.mark.parametrize("kind", ["grouped", "lead", "text", "masked", "next-scale"])
def test_plans_score_what_they_deploy(engine_on, model_of, examples_of, kind) -> None:
    engine, _ = engine_on(kind)
    batch = examples_of(kind)
    expected = model_of(kind).score(batch.inputs, batch.features)
    np.testing.assert_allclose(engine.score(batch.inputs, batch.features), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["grouped", "lead", "text"])
def test_a_prompt_is_read_in_one_call_where_a_profile_takes_it(engine_on, model_of, examples_of, kind) -> None:
    engine, library = engine_on(kind)
    batch = examples_of(kind)
    known = Known(batch.targets[:2], np.arange(16) < 6)
    given = (np.zeros(2, dtype=np.int64), 3, Sampler(), None if batch.features is None else batch.features[:2], known)
    assert (engine.draw_tokens(*given) == model_of(kind).draw_tokens(*given)).all()
    decode = [each for each in library.contexts if "past.0.key" in each.engine.inputs]
    # Without a start token or a text there is no profile but that of a step.
    assert [each.calls for each in decode] == ([7 + 9] if kind == "grouped" else [9, 1])


def test_pictures_are_decoded_and_encoded_by_plans(engine_on, model_of, monkeypatch) -> None:
    engine, _ = engine_on("next-scale")
    monkeypatch.setattr(Graphs, "sessions", property(lambda self: pytest.fail("ONNX Runtime opens its own graphs")))
    model = model_of("next-scale")
    assert engine.picture == model.picture
    tokens = np.random.default_rng(0).integers(0, 17, (5, 16))  # parts of at most 3
    images = engine.decode_images(tokens)
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - model.decode_images(tokens)).max() <= 1
    assert (engine.encode_images(images) == model.encode_images(images)).all()
    assert engine.generate([1, 2], seed=3).shape == (2, *model.picture)
    assert engine.cache_bytes == model.cache_bytes


def test_an_image_decoder_without_a_plan_runs_in_onnx_runtime(engine_on, model_of) -> None:
    engine, _ = engine_on("grouped", without=("image_decoder", "image_encoder"))
    tokens = np.random.default_rng(0).integers(0, 17, (2, 16))
    assert (engine.decode_images(tokens) == model_of("grouped").decode_images(tokens)).all()
    assert engine.picture == (4, 4, 1)


def test_half_precision_plans_draw_too(model_of, on_stand_in, tmp_path) -> None:
    model, drawn = model_of("lead"), np.random.default_rng(0).integers(0, 17, (8, 16))
    context = Context(model, TokenSet(drawn, np.arange(8), np.zeros(8, dtype=np.int64)), 4, 0, tmp_path)
    made = Export("tensorrt", floats="float16").run(model, context).model
    folder, _ = on_stand_in(made)
    engine, plain = Engine.load(folder, threads=1), Engine.load(folder, threads=1, device="cpu")
    loop = loop_of(engine, 2)
    assert loop.buffers["past.0.key"].dtype == torch.float16
    labels = np.arange(2)
    assert (engine.draw_tokens(labels, 3) == plain.draw_tokens(labels, 3)).all()


def test_past_and_present_share_one_address_that_stays(engine_on) -> None:
    engine, library = engine_on("lead")
    engine.draw_tokens(np.array([1]), sampler=Sampler())
    step, prefill = (each for each in library.contexts if "past.0.key" in each.engine.inputs)
    for name in ("0.key", "0.value", "1.key", "1.value"):
        places = {each.addresses[f"{side}.{name}"] for each in (step, prefill) for side in ("past", "present")}
        assert len(places) == 1
    before = dict(step.addresses)
    engine.draw_tokens(np.array([2]), sampler=Sampler())
    assert step.addresses == before
    assert len([each for each in library.contexts if "past.0.key" in each.engine.inputs]) == 2


def test_fewer_rows_than_a_plan_takes_are_filled_up(engine_on, model_of) -> None:
    engine, _ = engine_on("lead hoisted", rows=Rows(3, 3, 3))
    loop = loop_of(engine, 1)
    assert [part.stop - part.start for part in loop.parts] == [3]
    assert loop.buffers["past.0.key"].shape[0] == 3
    labels = np.array([4])
    assert (engine.draw_tokens(labels, 1, Sampler()) == model_of("lead").draw_tokens(labels, 1, Sampler())).all()


def test_rows_lie_behind_each_other_in_parts(engine_on) -> None:
    engine, _ = engine_on("grouped", rows=Rows(2, 2, 3))
    assert [(each.start, each.stop) for each in loop_of(engine, 7).parts] == [(0, 3), (3, 6), (6, 8)]


def test_a_position_that_has_to_lie_on_the_host_lies_there_and_nothing_is_captured(engine_on, model_of) -> None:
    engine, _ = engine_on("grouped", "tensorrt", host=("position",))
    loop = loop_of(engine, 1)
    assert loop.buffers["position"].device.type == "cpu"
    labels = np.array([4])
    expected = model_of("grouped").draw_tokens(labels, 1, Sampler())
    assert (engine.draw_tokens(labels, 1, Sampler()) == expected).all()
    ((_, kept),) = engine.lending.idle
    assert [each.replay for each in kept.steps] == [None]


def test_only_steps_are_captured(engine_on) -> None:
    engine, library = engine_on("lead hoisted")
    engine.generate([1])
    strategies = {
        ("past.0.key" in each.engine.inputs, each.engine.library.CudaGraphStrategy(each.strategy).name)
        for each in library.contexts
        if each.calls > 1 or "past.0.key" not in each.engine.inputs
    }
    assert strategies == {(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")}
    engine, _ = engine_on("lead hoisted", "tensorrt")
    engine.generate([1])
    ((_, kept),) = engine.lending.idle
    assert all(each.replay is not None for each in kept.steps)
    assert all(each.replay is None for each in (*kept.others, *kept.first))


def test_nan_is_found_on_the_device(engine_on) -> None:
    engine, _ = engine_on("grouped")
    with engine._lent(2) as loop:
        loop.buffers["past.0.key"].fill_(float("nan"))
        loop.buffers["past.0.value"].fill_(float("nan"))
    with pytest.raises(UnsoundLogitsError, match="the model's logits hold NaN"):
        engine.draw_tokens(np.array([1]))  # a mask that is added leaves NaN

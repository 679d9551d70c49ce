"""Engines draw the tokens that PyTorch draws, whatever their cache, and say what is wrong with a folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from export.runtime.engine import Engine, EngineError
from export.runtime.profiling import Event, low_precision_share
from export.runtime.sampling import Sampler
from export.targets import fuse

LABELS = np.array([3, 0, 9])
FORMS = ("growing", "shared", "static")


@pytest.fixture(scope="session")
def engine(exported: Callable, engine_of: Callable) -> Callable[[str], Engine]:
    """The grouped-query model as an engine with each kind of cache."""
    made = {
        "growing": engine_of(exported("grouped")),
        "shared": engine_of(fuse(exported("grouped")).model),
        "static": engine_of(exported("grouped", "tensorrt")),
    }
    return made.__getitem__


@pytest.mark.parametrize("form", FORMS)
def test_an_engine_draws_the_same_tokens_as_torch(engine, model_of, form) -> None:
    model = model_of("grouped")
    assert engine(form).manifest.cache == form
    for sampler in (None, Sampler(), Sampler(cfg_scale=2.0, temperature=0.8, top_k=6, top_p=0.9)):
        expected = model.draw_tokens(LABELS, seed=4, sampler=sampler)
        assert (engine(form).draw_tokens(LABELS, seed=4, sampler=sampler) == expected).all()


@pytest.mark.parametrize("form", FORMS)
def test_pictures_have_the_shape_and_levels_of_torchs(engine, model_of, form) -> None:
    pictures = engine(form).generate(LABELS, seed=1)
    assert (pictures.shape, pictures.dtype) == ((3, 4, 4, 1), np.uint8)
    assert (pictures == model_of("grouped").generate(LABELS, seed=1)).all()


@pytest.mark.parametrize("form", FORMS)
def test_drawing_again_begins_with_an_empty_cache(engine, form) -> None:
    first = engine(form).draw_tokens(LABELS, seed=1)
    engine(form).draw_tokens(LABELS, seed=2)
    assert (engine(form).draw_tokens(LABELS, seed=1) == first).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_does_not_depend_on_the_others_of_its_call(engine, form) -> None:
    many = engine(form).draw_tokens(LABELS, seed=5)
    assert (engine(form).draw_tokens(LABELS[:1], seed=5) == many[:1]).all()


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_the_same_at_once_and_step_by_step(engine, model_of, inputs, form) -> None:
    at_once, stepwise = engine(form).score(inputs), engine(form).score_stepwise(inputs)
    assert at_once.shape == (3, 16, 17)
    np.testing.assert_allclose(at_once, stepwise, rtol=0, atol=1e-5)
    np.testing.assert_allclose(at_once, model_of("grouped").score(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_more_rows_than_one_call_scores_are_cut_into_chunks(engine, inputs, form, monkeypatch) -> None:
    whole = engine(form).score(inputs)
    monkeypatch.setattr("export.runtime.scoring.SCORE_ROWS", 2)
    np.testing.assert_allclose(engine(form).score(inputs), whole, rtol=0, atol=1e-5)


def test_settings_of_a_call_replace_the_engines_own(engine) -> None:
    loaded = engine("growing")
    assert loaded.sampler == Sampler(cfg_scale=1.5)
    sampler = Sampler(cfg_scale=1.0, temperature=0.5, top_k=3, top_p=0.7)
    expected = loaded.decode_images(loaded.draw_tokens(LABELS, 2, sampler))
    found = loaded.generate(LABELS.tolist(), 2, cfg_scale=1.0, temperature=0.5, top_k=3, top_p=0.7)
    assert (found == expected).all()
    assert (loaded.generate(LABELS, 2) != found).any()
    assert loaded.sampler == Sampler(cfg_scale=1.5)


def test_the_likeliest_tokens_do_not_depend_on_the_seed(engine) -> None:
    first, second = (engine("shared").generate(LABELS, seed, temperature=0) for seed in (0, 1))
    assert (first == second).all()


def test_an_engine_says_what_it_draws(engine) -> None:
    loaded = engine("shared")
    assert (loaded.vocabulary, loaded.classes, loaded.length, loaded.runtime) == (17, 10, 16, "onnxruntime")


def test_labels_and_settings_that_cannot_be_are_refused(engine) -> None:
    with pytest.raises(ValueError, match=r"label 11 is not a class; the model draws 0 to 9 \(10 is unconditional\)"):
        engine("growing").generate([11])
    with pytest.raises(ValueError, match=r"labels of shape \(0,\): need one class for each picture"):
        engine("growing").generate([])
    with pytest.raises(ValueError, match="top_p 0: must be above 0"):
        engine("growing").generate([1], top_p=0)
    with pytest.raises(ValueError, match=r"seed 18446744073709551616: must be a whole number from 0 to"):
        engine("growing").generate([1], seed=2**64)
    with pytest.raises(ValueError, match="steps 3: this model draws token by token; leave it out"):
        engine("growing").generate([1], steps=3)
    with pytest.raises(ValueError, match="threads 1025: must be at most 1024"):
        Engine.load(engine("growing").folder, threads=1025)


def test_profiling_times_every_operator_of_every_step(engine) -> None:
    events = engine("shared").profile(1)
    attention = [event for event in events if event.op == "GroupQueryAttention"]
    assert len(attention) == 2 * 16  # layers, steps
    assert all(event.microseconds >= 0 for event in events)
    assert low_precision_share(events) == 0


@pytest.mark.slow
def test_a_quantized_engines_products_run_in_low_precision(exported, engine_of) -> None:
    events = engine_of(exported("int8 dynamic")).profile(1)
    assert {event.op for event in events} >= {"MatMulNBits", "MatMul"}
    assert 0.5 < low_precision_share(events) < 1  # the head stays in float


def test_the_low_precision_share_counts_products_alone() -> None:
    events = [
        Event("MatMulNBits", "a", 20.0),
        Event("QGemm", "b", 10.0),
        Event("MatMul", "c", 6.0),
        Event("FusedMatMul", "d", 4.0),
        Event("Softmax", "e", 1000.0),
    ]
    assert low_precision_share(events) == 30 / 40
    assert low_precision_share(events[2:]) == 0
    assert low_precision_share(events[:2]) == 1
    assert low_precision_share(events[4:]) == 0
    assert low_precision_share([]) == 0


def test_what_onnx_runtime_cannot_read_is_named(exported, tmp_path) -> None:
    model = exported("narrow heads")
    model.save(tmp_path)
    (tmp_path / "decode.onnx").write_bytes(b"not a graph")
    model.manifest.save(tmp_path)  # the hash is that of the broken file
    with pytest.raises(EngineError) as error:
        Engine.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'decode.onnx'}: ONNX Runtime cannot load it (")


def test_a_folder_that_is_not_whole_is_refused_with_the_file(exported, tmp_path) -> None:
    exported("narrow heads").save(tmp_path)
    path = tmp_path / "decode.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(EngineError) as error:
        Engine.load(tmp_path)
    assert str(error.value) == f"{path}: damaged (its content is not what was exported); export it again"
    path.unlink()
    with pytest.raises(EngineError) as error:
        Engine.load(str(tmp_path))
    assert str(error.value) == f"{path}: missing from the engine folder"

"""An engine in optimum's layout computes the same, and opens in ORTModelForCausalLM where optimum is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from compress.cli import main
from compress.models.image_model import ImageModel
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.quantize_onnx import QuantizeOnnx
from export.graph.onnx_model import OnnxModel
from export.runtime.engine import Engine
from export.runtime.sampling import Sampler
from export.targets.optimum_layout import LayoutError, write

LEARNED = {"positions": "learned", "norm": "layernorm", "activation": "gelu", "bias": True, "tied_head": True}
KINDS = {
    "rotary": {"head_width": 16, "heads": 2},
    "grouped": {"head_width": 16, "heads": 4, "kv_heads": 2, "width": 64},
    "learned, with a start token": {**LEARNED, "lead": 1},
}
CHAINS = {"plain": (), "fused": (Fuse(),), "fused and quantized": (Fuse(), QuantizeOnnx(head=True))}


@pytest.fixture(params=KINDS, ids=KINDS.keys())
def reference(request: pytest.FixtureRequest, tiny_model) -> ImageModel:
    """A stock decoder that takes the likeliest token."""
    return tiny_model(sampler=Sampler(temperature=0.0), **KINDS[request.param])


@pytest.fixture(params=CHAINS, ids=CHAINS.keys())
def engine(request: pytest.FixtureRequest, reference, context) -> OnnxModel:
    """It, exported for ONNX Runtime and sent through a chain."""
    model = Export("onnxruntime").run(reference, context()).model
    for step in CHAINS[request.param]:
        model = step.run(model, context()).model
    return model


@pytest.fixture
def laid_out(engine, tmp_path: Path) -> tuple[Engine, Path]:
    """The engine, and the folder of optimum's layout."""
    for name in ("engine", "optimum"):
        (tmp_path / name).mkdir()
    engine.save(tmp_path / "engine")
    write(engine, tmp_path / "optimum")
    return Engine.load(tmp_path / "engine", threads=1), tmp_path / "optimum"


def prompts(engine: Engine) -> np.ndarray:
    """The ids before the pictures of classes 3 and 7."""
    shape = engine.shape
    return np.array([[shape.start_token] * shape.lead + [shape.first_class + label] for label in (3, 7)])


@pytest.mark.slow
def test_the_graph_has_the_names_of_hugging_face_and_computes_the_same(laid_out) -> None:
    engine, folder = laid_out
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert [each.name for each in session.get_inputs()] == ["input_ids", *(f"past_key_values.{n}" for n in names)]
    assert [each.name for each in session.get_outputs()] == ["logits", *(f"present.{n}" for n in names)]
    tokens = engine.draw_tokens(np.array([3, 7]))
    ids = np.concatenate([prompts(engine), tokens[:, :-1]], axis=1)
    empty = np.zeros((2, engine.manifest.kv_heads[0], 0, engine.manifest.head_width), dtype=np.float32)
    past, parts = dict.fromkeys((f"past_key_values.{name}" for name in names), empty), []
    # GroupQueryAttention takes several tokens behind a past for one row only; generation never does that.
    for start, end in ((0, 3), *((place, place + 1) for place in range(3, ids.shape[1]))):
        logits, *present = session.run(None, {"input_ids": ids[:, start:end], **past})
        parts.append(logits)
        past = dict(zip(past, present, strict=True))
    expected = engine.score(np.concatenate([prompts(engine)[:, -1:], tokens[:, :-1]], axis=1))
    difference = np.abs(np.concatenate(parts, axis=1)[:, engine.shape.lead :] - expected)
    # Products in int8 may round a tie the other way at some position.
    assert difference.mean() < 1e-4
    assert difference.max() < (
        1e-4 if "MatMulNBits" not in (folder / "model.onnx").read_bytes().decode("latin1") else 0.1
    )


def test_the_config_is_that_of_the_stock_decoder(laid_out) -> None:
    engine, folder = laid_out
    config = json.loads((folder / "config.json").read_text())
    learned = engine.shape.lead == 1
    heads, hidden = ("n_head", "n_embd") if learned else ("num_attention_heads", "hidden_size")
    assert config["model_type"] == ("gpt2" if learned else "llama")
    assert config[hidden] // config[heads] == engine.manifest.head_width
    assert config["image"] == {
        "vocabulary": 17, "grid": [8, 8], "first_class": 17, "classes": 10, "no_class": 27,
        "before_the_class": [28] if learned else [],
    }  # fmt: skip
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}


def test_optimum_opens_it_with_equal_logits_and_equal_greedy_generation(laid_out) -> None:
    optimum = pytest.importorskip(
        "optimum.onnxruntime", reason="optimum is not installed (docs/families/huggingface.md)"
    )
    engine, folder = laid_out
    model = optimum.ORTModelForCausalLM.from_pretrained(folder)
    given, tokens = prompts(engine), engine.draw_tokens(np.array([3, 7]))
    drawn = model.generate(torch.from_numpy(given), do_sample=False)[:, given.shape[1] :].numpy()
    np.testing.assert_array_equal(drawn, tokens)
    ids = np.concatenate([given, tokens[:, :-1]], axis=1)
    logits = model(input_ids=torch.from_numpy(ids)).logits.numpy()[:, engine.shape.lead :]
    expected = engine.score(np.concatenate([given[:, -1:], tokens[:, :-1]], axis=1))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kv_heads": (2, 1)}, "its layers have [1, 2] key/value heads; optimum takes one number"),
        ({"cache": "static"}, "its cache is static; export for onnxruntime or standard"),
        ({"fixed_batch": 4}, "it takes 4 rows only; export it with fixed_batch: 0"),
    ],
)
def test_what_generation_cannot_drive_is_refused(tiny_model, context, tmp_path, changes, words: str) -> None:
    model = Export("onnxruntime").run(tiny_model(layers=2, kv_heads=2), context()).model
    with pytest.raises(LayoutError) as error:
        write(replace(model, manifest=replace(model.manifest, **changes)), tmp_path)
    assert str(error.value) == f"tiny: {words}"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"modulation": "class", **LEARNED, "tied_head": False}, "every call reads the class or the text apart"),
        ({"order": "masked", **LEARNED}, "it draws in the order masked; only causal decoders have this layout"),
    ],
)
def test_other_orders_and_modulated_decoders_are_refused(tiny_model, context, tmp_path, kind, words: str) -> None:
    model = Export("onnxruntime").run(tiny_model(layers=1, **kind), context()).model
    with pytest.raises(LayoutError, match=words):
        write(model, tmp_path)


def test_the_verb_writes_the_folder(tiny_model, context, tmp_path: Path, foreign: Callable) -> None:
    engine, folder = tmp_path / "engine", tmp_path / "out" / "folder"
    engine.mkdir()
    Export("onnxruntime").run(tiny_model(layers=1), context()).model.save(engine)
    ran = CliRunner().invoke(main, ["to-optimum", str(engine), "-o", str(folder)])
    assert (ran.exit_code, ran.output) == (0, f"{folder}: open it with ORTModelForCausalLM.from_pretrained\n")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "generation_config.json", "model.onnx"]
    ran = CliRunner().invoke(main, ["to-optimum", str(tmp_path), "-o", str(folder)])
    assert ran.exit_code == 2
    assert "an engine folder holds manifest.json" in ran.output

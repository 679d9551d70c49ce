"""A folder of Hugging Face is exported by optimum and adopted; without optimum that is said with the way out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models import families
from compress.models.families import Source
from compress.models.families.huggingface import architecture, image_ids
from compress.recipe import recipe
from compress.running import pipeline

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CLASSES = "classes: [20, 21, 22, 23, 24, 25, 26, 27, 28, 29], no_class: 30"
CONFIG = {"grid": [8, 8], "start": [1], "image_offset": 40}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["LlamaForCausalLM"], "LlamaForCausalLM"),
        (["ChameleonForConditionalGeneration"], "ChameleonForConditionalGeneration"),
        (["T5ForConditionalGeneration"], ""),
        ([], ""),
    ],
)
def test_a_config_names_a_decoder_or_none(names: list[str], found: str) -> None:
    assert architecture({"architectures": names}) == found


def test_ids_of_image_tokens_come_from_the_vocabulary_mapping_in_the_order_of_codes() -> None:
    mapping = type("Mapping", (), {"img2bpe": {1: 8, 0: 9, 2: 7}})()
    assert image_ids(mapping) == (9, 8, 7)
    assert image_ids(None) == ()


def test_without_optimum_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    monkeypatch.setitem(sys.modules, "optimum", None)
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(
        InputError, match=r"here: a folder of Hugging Face is exported by optimum .*'optimum-onnx==0\.1\.\*'"
    ):
        families.load_graph(Source(str(tmp_path), tokenizer="digits", config=CONFIG), "here")


def folder(kind: str, path: Path) -> Path:
    """A tiny decoder of a kind with random weights, as transformers saves it."""
    pytest.importorskip("optimum.exporters.onnx", reason="optimum is not installed (docs/families/huggingface.md)")
    import torch
    import transformers

    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(vocab_size=64, **SIZES, **IDS)
        model = transformers.LlamaForCausalLM(config)
    else:
        letters = {str(code): "IMGIMG" + "".join(chr(65 + int(d)) for d in str(code)) + "Z" for code in range(17)}
        names = {name: 40 + int(code) for code, name in letters.items()}
        vq = {"embed_dim": 8, "num_embeddings": 17, "latent_channels": 8, "resolution": 16, "base_channels": 32}
        vq |= {"channel_multiplier": [1, 1], "num_res_blocks": 1}
        config = transformers.ChameleonConfig(
            vocab_size=64, vocabulary_map={**names, "<image>": 9}, vq_config=vq, **SIZES, **IDS
        )
        model = transformers.ChameleonForConditionalGeneration(config)
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["llama", "chameleon"])
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    path = folder(kind, tmp_path / kind)
    import torch
    import transformers

    given = {"grid": [8, 8], "start": [1, 5], **({"image_offset": 40} if kind == "llama" else {})}
    adopted = families.load_graph(Source(str(path), tokenizer="digits", config=given), "here")
    tokens = np.random.default_rng(0).integers(0, 17, size=(2, 64))
    inputs = np.concatenate([np.full((2, 1), 17), tokens[:, :-1]], axis=1)
    model = getattr(transformers, architecture(json.loads((path / "config.json").read_text()))).from_pretrained(path)
    if kind == "chameleon":
        model.model.vocabulary_mapping.__dict__["image_tokens"] = []
    ids = np.concatenate([np.tile([1, 5], (2, 1)), 40 + tokens[:, :-1]], axis=1)
    with torch.no_grad():
        expected = model.eval()(input_ids=torch.from_numpy(ids)).logits[:, 1:, 40:57].numpy()
    np.testing.assert_allclose(adopted.score(inputs), expected, atol=1e-5)
    np.testing.assert_allclose(adopted.score_stepwise(inputs), expected, atol=1e-5)


def test_a_whole_recipe_runs_from_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "llama.yaml"
    path.write_text(
        f"model: {{checkpoint: {folder('llama', tmp_path / 'llama')}, tokenizer: digits, "
        f"config: {{grid: [8, 8], image_offset: 40, start: [1], {CLASSES}}}}}\n"
        "tokens: {source: digits, calibration: 16, held_out: 20}\n"
        "bench: {batch: [1], threads: 1, repeats: 6, samples: 20}\n"
        "engines: {int8: [fuse, quantize-onnx]}\n"
    )
    report = pipeline.run(recipe.load(path), Store(tmp_path / "store"), tmp_path / "run", Silent())
    fused, quantized = report.steps
    assert (fused.notes["fused"]["gate-up"], fused.notes["fused"]["activation"]) == (2, 2)
    assert fused.fidelity.max_abs_difference < 1e-4
    assert quantized.fidelity.kl < 0.01
    assert quantized.speed[0].speedup_vs_reference is not None

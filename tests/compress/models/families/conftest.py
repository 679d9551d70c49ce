"""Small checkpoints in published layouts, cut from the golden ones so that they fit an image tokenizer of 64 codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.models.families import Source

GOLDEN = Path(__file__).parents[3] / "data" / "golden"
CODES = 64
LATER_LAYER = re.compile(r"(layers?|blocks|\bh)\.[1-9]\d*\.")
STATED_LAYERS = re.compile(r'("(?:n_layer|depth|num_hidden_layers)":) *\d+')
TOKENIZERS = {
    "llamagen-c2i": "llamagen-vq",
    "llamagen-t2i": "llamagen-vq",
    "halton-maskgit": "llamagen-vq",
    "rar": "rar-vqgan",
    "taming-mingpt": "rar-vqgan",
    "titok-bert": "titok",
    "var": "var-vqvae",
}
# Tensors that have a row for each token, and how many rows more.
TOKEN_ROWS = {
    "tok_embeddings.weight": 0,
    "output.weight": 0,
    "tok_emb.weight": 1,
    "head.weight": 1,
    "head.bias": 1,
    "transformer.tok_emb.weight": 0,
    "transformer.head.weight": 0,
}
TITOK_TOKENS = 6  # of a picture of the golden tokenizer


def of_titok(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """TiTok's generator with rows for the golden tokenizer's codes and positions."""
    words, head = "model.embeddings.word_embeddings.weight", "model.lm_head"
    codes = len(state[f"{head}.weight"])
    again = torch.arange(CODES) % codes
    return (
        state
        | {
            words: torch.cat([state[words][again], state[words][codes:]]),  # behind the codes: mask, classes, no class
            f"{head}.weight": state[f"{head}.weight"][again],
            f"{head}.bias": state[f"{head}.bias"][again],
            **{name: state[name][: TITOK_TOKENS + 1].clone() for name in state if "position_embeddings" in name},
        }
    )


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    """Where a one-layer checkpoint of a published format lies, with its image tokenizer."""

    def make(name: str) -> Source:
        folder = tmp_path_factory.mktemp(name)
        if name == "amused":
            from tiny_amused import write_pipeline

            write_pipeline(folder / "pipeline")
            return Source(str(folder / "pipeline"))
        (weights,) = (path for path in (GOLDEN / name).iterdir() if path.suffix in (".pt", ".safetensors"))
        config = (GOLDEN / name / "config.json").read_text()
        (folder / "config.json").write_text(STATED_LAYERS.sub(r"\1 1", config))
        if name == "imagegpt":
            clusters = np.random.default_rng(0).uniform(-1, 1, (CODES, 3)).tolist()
            (folder / "preprocessor_config.json").write_text(json.dumps({"clusters": clusters}))
        whole = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
        wrapper = next((key for key in ("model", "state_dict") if key in whole), None)
        state = whole[wrapper] if wrapper else whole
        state = {key: value for key, value in state.items() if not LATER_LAYER.search(key)}
        if name == "titok-bert":
            state = of_titok(state)
        elif name not in ("imagegpt", "rar", "var"):
            cut = {key: value[: CODES + TOKEN_ROWS[key]] for key, value in state.items() if key in TOKEN_ROWS}
            state |= {key: value.clone() for key, value in cut.items()}
        if weights.suffix == ".safetensors":
            save_file(state, folder / weights.name)
        else:
            torch.save({wrapper: state} if wrapper else state, folder / weights.name)
        tokenizer = str(GOLDEN / TOKENIZERS[name]) if name in TOKENIZERS else ""
        return Source(str(folder), tokenizer=tokenizer)

    return make

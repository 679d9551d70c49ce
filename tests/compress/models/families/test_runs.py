"""A whole recipe for every family: pruned, taught, quantized, exported, fused, measured, judged, and drawn with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from calibration.tokens import TokenSet
from compress.core.listener import Silent
from compress.core.store import Store
from compress.models import families
from compress.models.candidate import open_candidate
from compress.models.families import Source
from compress.models.image_model import ImageModel
from compress.recipe import recipe
from compress.running import pipeline
from export.runtime.drawing import conditions
from export.runtime.engine import Engine

PUBLISHED = (
    "amused", "llamagen-c2i", "llamagen-t2i", "halton-maskgit", "imagegpt", "rar", "taming-mingpt", "titok-bert", "var"
)  # fmt: skip
HIDDEN = ("titok-bert",)  # whose graphs do not show the stream between the blocks
PICTURES = {"train": 6, "validation": 2, "held_out": 4}


def drawn_tokens(model: ImageModel) -> TokenSet:
    """A TokenSet of pictures that the model draws itself."""
    count = sum(PICTURES.values())
    labels, features = conditions(model.shape, count)
    tokens = model.draw_tokens(labels, 0, model.sampler.changed(cfg_scale=1.0), features)
    return TokenSet(tokens, labels, np.repeat(np.arange(3), list(PICTURES.values())), features)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_runs_from_a_published_checkpoint_to_an_engine_that_draws(
    name: str, published: Callable[[str], Source], tmp_path: Path
) -> None:
    source = published(name)
    model = families.load(source, name)
    drawn_tokens(model).save(tmp_path / "tokens.npz")
    steps = [
        {"prune-heads": {"ratio": 0.25}},
        {"prune-ffn": {"ratio": 0.25, "multiple": 16}},
        {"distill": {"steps": 2, "batch": 2}},
        {"quantize": {"weights": "int8", "activations": "int8"}},
    ]
    content = {
        "model": {"checkpoint": source.checkpoint, "tokenizer": source.tokenizer},
        "tokens": {"source": str(tmp_path / "tokens.npz"), "calibration": 4, "held_out": 4},
        "bench": {"batch": [1], "threads": 1, "repeats": 6, "samples": 10},
        # The trunk's last step alone is lowered and timed: each export takes seconds.
        "engines": {"cpu": [*steps, {"export": {"target": "onnxruntime"}}, {"fuse": {}}]},
        "gate": {"kl": 50},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    report = pipeline.run(recipe.load(path), Store(tmp_path / "store"), tmp_path / "run", Silent(), preflight=False)
    assert report.verdict.passed, report.verdict
    (engine,) = report.engines
    assert engine.parameters < model.parameters()
    assert engine.speed
    shown = [step for step in report.steps if step.form == "torch" or name not in HIDDEN]
    assert shown
    assert all(len(step.layers) == len(report.floor.layers) for step in shown), "every form shows its layers"
    assert len(report.floor.layers) > 1
    assert (tmp_path / "run" / "pictures-cpu.png").stat().st_size > 0
    labels, features = conditions(model.shape, 2)
    loaded = Engine.load(tmp_path / "run/engines/cpu")
    pictures = loaded.decode_images(loaded.draw_tokens(labels, 0, None, features))
    assert pictures.shape == (2, *model.picture)
    theirs = open_candidate(str(path)).decode_images(model.draw_tokens(labels, 0, None, features))
    assert theirs.shape == pictures.shape, "a recipe stands for its model"

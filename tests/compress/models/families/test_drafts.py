"""The recipe that `compress init` drafts runs from a published checkpoint to an engine that draws."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import compress
from calibration.tokens import TokenSet
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models import families
from compress.models.families import Source
from compress.recipe import recipe
from compress.running import pipeline
from export.runtime.drawing import conditions
from export.runtime.engine import Engine

GOALS = {
    "amused": "smallest",
    "llamagen-c2i": "smallest",
    "llamagen-t2i": "balanced",
    "halton-maskgit": "fastest",
    "imagegpt": "lossless",
    "rar": "balanced",
    "taming-mingpt": "fastest",
    "titok-bert": "balanced",
    "var": "smallest",
}
PICTURES = {"train": 6, "validation": 2, "held_out": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOALS)
def test_the_drafted_recipe_runs_to_the_end(name: str, published: Callable[[str], Source], tmp_path: Path) -> None:
    source = published(name)
    model = families.load(source, name)
    count = sum(PICTURES.values())
    labels, features = conditions(model.shape, count)
    tokens = model.draw_tokens(labels, 0, replace(model.sampler, cfg_scale=1.0), features)
    TokenSet(tokens, labels, np.repeat(np.arange(3), list(PICTURES.values())), features).save(tmp_path / "tokens.npz")
    made = compress.init(
        source.checkpoint, goal=GOALS[name], tokens=tmp_path / "tokens.npz", tokenizer=source.tokenizer,
        output=tmp_path / "recipe.yaml",
    )  # fmt: skip
    made.write()
    drafted = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    drafted["gate"] = {"kl": 50}  # random weights have no opinions that could drift
    drafted["bench"] |= {"repeats": 6, "samples": 10, "threads": 1}
    for item in drafted["passes"]:
        if "distill" in item:
            item["distill"] |= {"steps": 2, "batch": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(drafted, sort_keys=False))
    loaded = recipe.load(tmp_path / "recipe.yaml")
    report = pipeline.run(loaded, Store(tmp_path / "store"), tmp_path / "run", Silent())
    assert report.verdict.passed, report.verdict
    assert (tmp_path / "run" / "pictures-cpu.png").stat().st_size > 0
    labels, features = conditions(model.shape, 2)
    drawn = Engine.load(tmp_path / "run" / "engines" / "cpu").generate(labels, 0, features=features)
    assert drawn.shape == (2, *model.picture)


@pytest.fixture(scope="module")
def texts(published: Callable[[str], Source]) -> Source:
    """A model that draws by texts, whose folder brings the text encoder."""
    return published("amused")


def test_a_draft_says_what_a_picture_needs_besides_its_tokens(texts: Source, tmp_path: Path) -> None:
    made = compress.init(texts.checkpoint, output=tmp_path / "r.yaml")
    (text,) = made.recipes.values()
    said = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert "beside its tokens each picture has `features` (9, 16) of its text, which compress models features" in said
    assert "needs the transformers library, and so does a run" in said
    assert "tokens: {source: pipeline-tokens.npz, calibration: 128, held_out: 100}  # to be made, see above" in text
    assert not [each for each in made.commands if each.startswith("compress tokens")], "it would leave features out"


def test_pictures_without_texts_are_refused(texts: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder of pictures, without texts; give a TokenSet .* \(9, 16\)"):
        compress.init(texts.checkpoint, tokens=tmp_path)


def test_a_transformer_without_its_text_encoder_is_refused(texts: Source, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(Path(texts.checkpoint) / "transformer", alone)
    with pytest.raises(InputError, match=r"alone: no text_encoder beside it, .* or state config.null_features"):
        compress.init(alone)


def test_a_generator_without_its_image_tokenizer_is_refused(published: Callable[[str], Source]) -> None:
    with pytest.raises(InputError, match=r"init.tokenizer: this checkpoint brings no .*; give tokenizer_titok_\*"):
        compress.init(published("titok-bert").checkpoint)

"""A family of one file outside the package: recognised, compared with a golden file, and run in a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from compress.cli import catalogue
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models import families
from compress.models.families import Source
from compress.recipe import recipe
from compress.running import pipeline
from compress.verifying import golden

DOCS = Path(__file__).parents[4] / "docs"
NAMES = {
    "embedding.weight": "levels.weight",
    "norm.weight": "norm.weight",
    "head.weight": "out.weight",
    "attention_norm": "norm1",
    "attention.query": "q",
    "attention.key": "k",
    "attention.value": "v",
    "attention.output": "o",
    "ffn_norm": "norm2",
    "ffn.gate": "gate",
    "ffn.up": "up",
    "ffn.down": "down",
}


@pytest.fixture
def example(installed) -> None:
    """The family of the documentation, installed."""
    page = (DOCS / "families.md").read_text(encoding="utf-8")
    source = re.search(r"^## How to add a family$.*?^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    installed(source, "compress.families", "greylevel = my_families:Greylevel")


def theirs(name: str) -> str:
    """A tensor's name in the family's checkpoints."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.*)\.weight", name)
    return f"layers.{block[1]}.{NAMES[block[2]]}.weight" if block else NAMES[name]


@pytest.fixture
def saved(tiny_model, tmp_path: Path) -> Path:
    """A checkpoint of the family with the weights of the tiny model."""
    folder = tmp_path / "greylevel"
    folder.mkdir()
    state = tiny_model().transformer.state_dict()
    save_file({theirs(name): value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"heads": 4, "grid": [8, 8]}))
    return folder


def test_without_the_package_the_checkpoint_is_of_no_known_family(saved: Path) -> None:
    with pytest.raises(InputError, match="is of no known family"):
        families.load(Source(str(saved)), "model")


@pytest.mark.usefixtures("example")
def test_it_is_recognised_and_listed_by_its_first_line(saved: Path, tiny_model) -> None:
    assert "greylevel" in families.published()
    assert {"name": "greylevel", "doc": families.document("greylevel").splitlines()[0].rstrip(".")} in (
        catalogue.models()["families"]
    )
    assert families.recognise(families.open_checkpoint(Source(str(saved)), saved)) == "greylevel"


@pytest.mark.slow
@pytest.mark.usefixtures("example")
def test_it_is_compared_with_what_the_original_computed(saved: Path, tiny_model, tmp_path: Path) -> None:
    # The rotation of positions is another one by default than the tiny model's, which a golden file finds.
    model = tiny_model(layers=2, rotary_base=10_000.0)
    tokens, labels = np.random.default_rng(0).integers(0, 17, (2, 63)), np.array([3, 7])
    logits = model.score(np.concatenate([labels[:, None] + 17, tokens], axis=1))
    for name, change in (("right", 0.0), ("wrong", 0.1)):
        np.savez(tmp_path / f"{name}.npz", tokens=tokens, labels=labels, logits=logits + np.float32(change))
        rows = golden.compare(Source(str(saved)), tmp_path / f"{name}.npz")
        assert {row.where for row in rows} == {
            "torch", "torch, step by step", "engine", "engine, step by step",
        }  # fmt: skip
        assert {row.agrees for row in rows} == {name == "right"}


@pytest.mark.slow
@pytest.mark.usefixtures("example")
def test_it_runs_in_a_recipe(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "grey.yaml"
    path.write_text(
        f"model: {{checkpoint: {saved}}}\n"
        "tokens: {source: digits, calibration: 16, held_out: 20}\n"
        "bench: {batch: [1], threads: 1, repeats: 6, samples: 20}\n"
        "passes: [prune-heads: {ratio: 0.25, score: magnitude}]\n"
        "engines: {cpu: [export: {target: onnxruntime}]}\n"
    )
    report = pipeline.run(recipe.load(path), Store(tmp_path / "store"), tmp_path / "run", Silent(), preflight=False)
    assert report.verdict.passed
    assert [engine.name for engine in report.engines] == ["cpu"]

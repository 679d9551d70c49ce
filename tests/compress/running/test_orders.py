"""An order of drawing from one file outside this project: the worked example of docs/orders.md."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compress
from compress.core.settings import InputError
from compress.models.families import reference
from compress.models.transformer.model import TokenTransformer
from compress.passes import PassError
from compress.passes.engine import Engine
from compress.passes.export import Export
from compress.passes.prune_heads import PruneHeads
from export.runtime.orders import order_called

PAGE = (Path(__file__).parents[3] / "docs/orders.md").read_text(encoding="utf-8")
RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 16, held_out: 10}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - prune-heads: {{ratio: 0.5}}
engines:
  cpu: [export: {{target: onnxruntime}}, fuse, engine]
gate: {{kl: 50}}
"""


@pytest.fixture
def top_down(installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example, installed as a package of its own, for processes that a run starts too."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    installed(code[1], "compress.orders", "top-down = top_down:ORDER")
    order_called.cache_clear()
    yield
    order_called.cache_clear()


@pytest.fixture
def masked(tiny_model):
    """A tiny masked model."""
    return tiny_model(order="masked", modulation="class", positions="learned")


def in_order(model, order: str):
    """The same weights, drawn in another order."""
    transformer = TokenTransformer(replace(model.transformer.config, order=order))
    transformer.load_state_dict(model.transformer.state_dict())
    return replace(model, transformer=transformer.eval())


def test_an_order_of_one_file_outside_the_package_draws_from_the_top(top_down, masked) -> None:
    model, seen = in_order(masked, "top-down"), []
    tokens = model.draw_tokens(np.array([1, 2]), seed=3, on_step=lambda: seen.append(1))
    assert len(seen) == model.sampler.steps
    assert tokens.shape == (2, 64)
    assert tokens.max() < model.shape.vocabulary
    assert (tokens != masked.draw_tokens(np.array([1, 2]), seed=3)).any()


@pytest.mark.slow
def test_a_recipe_runs_with_it_and_its_engine_draws_the_same_tokens(top_down, masked, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    reference.save(in_order(masked, "top-down"), checkpoint)
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint))
    report = compress.run(path, tmp_path / "run", store=tmp_path / "store", preflight=False)
    assert report.verdict.passed
    engine = compress.load_engine(tmp_path / "run/engines/cpu", threads=1)
    assert engine.shape.order == "top-down"
    model, digits = in_order(masked, "top-down"), compress.load_tokens("digits")
    pruned = compress.apply(model, PruneHeads(ratio=0.5), digits, calibration=16)
    np.testing.assert_array_equal(
        engine.draw_tokens(np.array([1, 5]), seed=2), pruned.draw_tokens(np.array([1, 5]), seed=2)
    )


def test_its_whole_generation_is_no_single_file(top_down, masked, context) -> None:
    exported = Export(target="onnxruntime").run(in_order(masked, "top-down"), context()).model
    with pytest.raises(PassError, match="engine: single_file: true cannot write the steps of the order 'top-down'"):
        Engine(single_file=True).run(exported, context())


def test_an_order_that_nobody_knows_is_refused(masked, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    reference.save(masked, folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"masked"', '"sideways"'))
    with pytest.raises(InputError, match="order 'sideways' is not one of 'causal', 'masked', 'next-scale'"):
        compress.load(folder)

"""What `import compress` offers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import compress
from compress.passes.export import Export
from compress.passes.prune_heads import PruneHeads

ROOT = Path(__file__).parents[2]


def test_importing_it_loads_nothing_heavy() -> None:
    script = "import compress, sys; print(compress.__version__); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    version, modules = printed.stdout.splitlines()
    assert version[0].isdigit()
    assert not set(modules.split()) & {"torch", "numpy", "onnx", "onnxruntime", "scipy", "click", "yaml", "rich"}


def test_its_functions_stay_functions_whatever_is_imported(finished) -> None:
    compress.plan(finished.recipe)
    assert all(callable(getattr(compress, name)) for name in compress.__all__ if name[0].islower())
    with pytest.raises(AttributeError, match="module 'compress' has no attribute 'nothing'"):
        _ = compress.nothing


def test_passes_are_applied_one_after_the_other_and_leave_the_model(tiny_model, tiny_tokens, tmp_path) -> None:
    model = tiny_model()
    before = {name: each.clone() for name, each in model.transformer.state_dict().items()}
    pruned = compress.apply(model, PruneHeads(ratio=0.5), tiny_tokens, calibration=4)
    assert pruned.transformer.config.layers[0].heads == model.transformer.config.layers[0].heads // 2
    assert all((each == before[name]).all() for name, each in model.transformer.state_dict().items())
    compress.apply(model, [PruneHeads(ratio=0.5), Export(target="onnxruntime")], tiny_tokens, calibration=4).save(
        tmp_path
    )
    engine = compress.load_engine(tmp_path, threads=1)
    drawn = [compress.generate(each, [1, 2], seed=3, temperature=0.0) for each in (engine, pruned)]
    np.testing.assert_array_equal(*drawn)
    assert drawn[0].dtype == np.uint8


def test_a_pass_of_another_form_is_refused(tiny_model, tiny_tokens) -> None:
    chain = [Export(target="onnxruntime"), PruneHeads(ratio=0.5)]
    with pytest.raises(compress.InputError, match="PruneHeads: takes a model in torch form, not in onnx"):
        compress.apply(tiny_model(), chain, tiny_tokens)


def test_tokens_of_another_model_are_refused_and_few_pictures_are_enough(tiny_model, tiny_tokens) -> None:
    with pytest.raises(compress.InputError, match=r"^tokens: "):
        compress.apply(tiny_model(grid=(4, 4)), PruneHeads(ratio=0.5), tiny_tokens)
    assert compress.apply(tiny_model(), PruneHeads(ratio=0.5), tiny_tokens, calibration=10**6)


def test_a_recipe_runs_and_what_it_made_is_verified(finished, checkpoint, tmp_path) -> None:
    report = compress.run(finished.recipe, tmp_path / "run", store=finished.store, preflight=False)
    assert report.verdict.passed
    engine = compress.load_engine(tmp_path / "run" / report.engines[0].folder, threads=1)
    found = compress.verify(checkpoint, engine, {"kl": 50}, tokens="drawn", held_out=4, threads=1)
    assert found.verdict.passed
    assert found.reference == str(checkpoint)
    assert found.candidate == str(engine.folder)
    assert len(compress.bisect(checkpoint, engine, tokens="drawn", pictures=2, threads=1).layers) > 1
    (row,) = compress.bench([engine], batch=[1], repeats=6, threads=1)
    assert row.engine == str(engine.folder)


def test_models_of_one_name_are_not_timed_as_one(tiny_model) -> None:
    first, second = tiny_model(), tiny_model(seed=1)
    with pytest.raises(compress.InputError, match="two different engines are called tiny; give their folders"):
        compress.bench([first, second], batch=[1], repeats=6)
    assert [row.engine for row in compress.bench([first, first], batch=[1], repeats=6)] == ["tiny"]


@pytest.mark.parametrize(
    ("given", "message"),
    [({"cfg_scale": -1.0}, "cfg_scale -1.0"), ({"heat": 1.0}, "heat"), ({"labels": [99]}, "label 99 is not a class")],
)
def test_what_cannot_be_drawn_is_one_line(tiny_model, given, message) -> None:
    with pytest.raises(compress.InputError, match=message):
        compress.generate(tiny_model(), given.pop("labels", [1]), **given)


def test_the_page_of_the_api_is_made_of_its_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert {*made.ORDER, "InputError", "__version__"} == set(compress.__all__)
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == made.page(), (
        "run: python docs/make_api.py > docs/api.md"
    )

"""What each layer costs and saves alone: against the whole model, the store, and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.measure.drift.fidelity import fidelity
from compress.measure.statistics import Estimate
from compress.models.families import reference as families
from compress.models.transformer.examples import examples
from compress.passes.prune_ffn import PruneFfn
from compress.passes.quantize import Quantize
from compress.passes.shared.alone import Changes, Predictions
from compress.passes.shared.layer_costs import LayerCosts
from compress.passes.shared.pruned_alone import kl_of, prunings
from compress.passes.shared.pruning import UNITS, best, keep_groups
from compress.passes.shared.quantizing import sharing_copy
from compress.recipe import recipe as recipes
from compress.running import sensitivity as module
from compress.running.sensitivity import Asked, command_of, quantize_of, sensitivity

RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: {tokens}, calibration: 16, held_out: 16}}
bench:  {{batch: [3, 2], threads: 1}}
engines: {{cpu: [quantize: {{weights: int4, group: 16, ranges: absmax, rounding: nearest}},
                 export: {{target: onnxruntime}}]}}
"""


@pytest.fixture
def recipe(tiny_model, tiny_tokens, tmp_path):
    """A recipe of a tiny model of one layer."""
    (tmp_path / "model").mkdir()
    families.save(tiny_model(layers=1), tmp_path / "model")
    tiny_tokens.save(tmp_path / "tokens.npz")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(checkpoint=tmp_path / "model", tokens=tmp_path / "tokens.npz"))
    return recipes.load(path)


@pytest.fixture
def timed(monkeypatch):
    """Products take a millisecond for each weight, in few bits half of it; the kernels that were timed."""
    asked = []

    def milliseconds(kernels, threads):
        assert threads == 1
        asked.append(kernels)
        took = {each: each.inputs * each.outputs * (0.5 if each.spec else 1.0) for each in kernels}
        return {each: Estimate(ms, ms - 1, ms + 1) for each, ms in took.items()}

    monkeypatch.setattr(module.kernels, "milliseconds", milliseconds)
    return asked


def measured(recipe, folder, asked):
    return sensitivity(recipe, Store(folder), Silent(), asked, "compress sensitivity tiny.yaml")


def test_every_layer_has_a_row_for_every_format_and_every_block_for_what_is_pruned(
    recipe, timed, tiny_model, tiny_tokens, context, tmp_path
):
    found = measured(recipe, tmp_path / "store", Asked(("int4-g16", "int8", "float"), 0.25))
    model = tiny_model(layers=1)
    names = [name for name, _ in model.transformer.linears()]
    wanted = [(name, change) for name in [*names, "head"] for change in ("int4-g16", "int8")]
    assert [(row.layer, row.change) for row in found.layers] == [
        *wanted, ("blocks.0", "25% of heads"), ("blocks.0", "25% of units"),
    ]  # fmt: skip
    assert (found.part, found.pictures, found.rows_at_a_step) == ("validation", 16, 4)  # 2 pictures with guidance
    rows = {(row.layer, row.change): row for row in found.layers}
    row = rows["blocks.0.ffn.down", "int4-g16"]
    assert row.saved_bytes == 4 * 32 * 40 - 32 * (48 // 2 + 3 * 4)  # 40 inputs fill 3 groups
    settings = Quantize(
        "int4", group=16, ranges="absmax", rounding="nearest", head="same",
        keep=tuple(name for name in [*names, "head"] if name != "blocks.0.ffn.down"),
    )  # fmt: skip
    made = settings.run(model, context(calibration=16)).model
    kl, ci95 = whole(model, made, tiny_tokens)
    assert row.kl == pytest.approx(kl, rel=1e-3)
    assert row.kl_ci95 == pytest.approx(ci95, rel=1e-3)
    assert (row.saved_ms, row.saved_ms_ci95) == (640, (638, 642))
    assert len(timed) == len({tuple(each) for each in timed}), "each shape is timed once"


def whole(model, changed, tokens):
    """KL and its interval of a whole model against another one."""
    batch = examples(model.shape, tokens.part("validation"))
    found = fidelity(model.score(batch.inputs), changed.score(batch.inputs), batch.targets)
    return found.kl, found.kl_ci95


def test_what_pruning_adds_is_what_the_smaller_model_adds(recipe, timed, tiny_model, tiny_tokens, context, tmp_path):
    found = measured(recipe, tmp_path / "store", Asked((), 0.25))
    heads, units = found.layers
    model = tiny_model(layers=1)
    pruned = PruneFfn(ratio=0.25, repair=False, multiple=1).run(model, context(calibration=16)).model
    assert units.kl == pytest.approx(whole(model, pruned, tiny_tokens)[0], rel=1e-3)
    assert units.saved_bytes == 4 * 10 * 3 * 32  # 10 of 40 units: a row of gate and up, a column of down
    assert (units.saved_ms, units.saved_ms_ci95) == (960, (954, 966))
    assert heads.saved_bytes == 4 * 4 * 8 * 32  # 1 of 4 heads: 8 rows of query, key and value, 8 columns of output


def test_what_was_measured_before_an_interruption_is_not_measured_again(recipe, timed, monkeypatch, tmp_path):
    asked, measure, seen = Asked(("int8",), 0.25), LayerCosts.measure, []

    def stopping(self, unit, *rest):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(unit)
        return measure(self, unit, *rest)

    monkeypatch.setattr(LayerCosts, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        measured(recipe, tmp_path / "store", asked)
    first, seen[:] = [*seen], []
    monkeypatch.setattr(
        LayerCosts, "measure", lambda self, unit, *rest: seen.append(unit) or measure(self, unit, *rest)
    )
    found = measured(recipe, tmp_path / "store", asked)
    assert len(seen) == 8 - 5
    assert not set(first) & set(seen)
    count = len(timed)

    def never(*given):
        raise AssertionError("it is in the store")

    monkeypatch.setattr(LayerCosts, "measure", never)
    monkeypatch.setattr(module.pruned_alone, "kl_of", never)
    assert measured(recipe, tmp_path / "store", asked) == found
    assert len(timed) == count


def test_other_settings_pictures_and_models_are_other_measurements(recipe, timed, monkeypatch, tmp_path):
    seen, measure = [], LayerCosts.measure
    monkeypatch.setattr(
        LayerCosts, "measure", lambda self, unit, *rest: seen.append(unit) or measure(self, unit, *rest)
    )
    measured(recipe, tmp_path / "store", Asked(("int8",), 0))
    measured(recipe, tmp_path / "store", Asked(("int8",), 0, pictures=4))
    assert len(seen) == 16
    changed = recipe.path.read_text().replace("absmax", "mse")
    recipe.path.write_text(changed)
    measured(recipes.load(recipe.path), tmp_path / "store", Asked(("int8",), 0))
    assert len(seen) == 24


def test_layers_are_rounded_as_the_recipe_rounds_them(recipe):
    found = quantize_of(recipe)
    assert (found.weights, found.ranges, found.rounding) == ("int4", "absmax", "nearest")


def test_the_command_measures_the_same_again():
    asked = Asked(("int8", "int4-g128"), 0.25, 8)
    assert command_of("a b.yaml", asked, "digits", "") == (
        "compress sensitivity 'a b.yaml' --formats int8,int4-g128 --prune 0.25 --pictures 8 --model digits"
    )
    assert command_of("a.yaml", Asked((), 0), "", "") == "compress sensitivity a.yaml --formats none --prune 0"


def test_a_format_that_is_none_is_refused(recipe, tmp_path):
    with pytest.raises(InputError, match=r"^--formats: 'int7' is no format"):
        measured(recipe, tmp_path / "store", Asked(("int7",)))


def test_a_quantized_model_is_refused(recipe, tiny_model, context, tmp_path):
    made = Quantize(rounding="nearest").run(tiny_model(layers=1), context()).model
    (tmp_path / "quantized").mkdir()
    families.save(made, tmp_path / "quantized")
    given = recipes.load(recipe.path, model=str(tmp_path / "quantized"))
    with pytest.raises(InputError, match=r"tiny\.yaml: the model has 8 quantized layers already; name the float one"):
        measured(given, tmp_path / "store", Asked())


def test_tokens_without_pictures_to_judge_by_are_refused(recipe, tiny_tokens, tmp_path):
    one = np.concatenate([np.flatnonzero(tiny_tokens.parts == 0)[:1], np.flatnonzero(tiny_tokens.parts == 2)])
    tiny_tokens.take(one).save(tmp_path / "tokens.npz")
    recipe.path.write_text(recipe.path.read_text().replace("calibration: 16", "calibration: 1"))
    with pytest.raises(InputError, match=r"tiny\.yaml: tokens: layers are judged by at least 2 validation or training"):
        measured(recipes.load(recipe.path), tmp_path / "store", Asked())


def test_masking_groups_is_removing_them(tiny_model, tiny_tokens):
    model = tiny_model()
    layers = model.transformer.config.layers
    kept = [torch.arange(layer.ffn) for layer in layers]
    (kept[1],) = best([torch.arange(40.0)], [30])
    smaller = model.with_transformer(keep_groups(model.transformer, UNITS, kept))
    pictures = tiny_tokens.part("validation")
    changes = Changes(sharing_copy(model.transformer), Predictions(model.transformer, pictures))
    pruning = prunings(model.transformer, 0.25)[3]
    assert (pruning.name, pruning.structure.noun, pruning.removed) == ("blocks.1", "units", 10)
    found = kl_of(changes, pruning, torch.arange(40.0)).mean()
    assert found == pytest.approx(whole(model, smaller, tiny_tokens)[0], rel=1e-3)

"""quantize's `assign: auto`: what is chosen keeps its budget when it is measured, and what cannot be kept is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from compress.core.settings import InputError, parse
from compress.measure.drift.fidelity import fidelity
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import LinearQuantization, quantizations
from compress.passes import PassError
from compress.passes.quantize import Quantize
from compress.passes.shared.assigning import grouped
from compress.passes.shared.budget import Budget
from compress.passes.shared.format_names import name_of
from compress.passes.shared.layer_costs import LayerCosts

INT2, INT4, INT8 = (LinearQuantization(weights) for weights in ("int2", "int4", "int8"))
QUICK = Quantize(group=16, ranges="absmax", rounding="nearest", assign="auto", budget=Budget(kl=1e-2))


def test_products_that_engines_compute_as_one_are_one_unit():
    names = ["query", "key", "value", "output"]
    formats = {f"blocks.{block}.attention.{name}": (INT4, None) for block in range(2) for name in names}
    formats |= {"blocks.0.ffn.gate": (INT4, None), "blocks.0.ffn.up": (INT8,), "head": (INT8, None)}
    assert [*grouped(formats)] == [
        *(unit for block in range(2)
          for unit in (tuple(f"blocks.{block}.attention.{name}" for name in names[:3]),
                       (f"blocks.{block}.attention.output",))),
        ("blocks.0.ffn.gate",),  # up was given another choice
        ("blocks.0.ffn.up",),
        ("head",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assign": "auto"}, "budget has nothing; give it one of kl, bytes and size"),
        ({"assign": "auto", "budget": {"kl": 1e-3, "size": "50%"}}, "budget has kl, size; give it one of"),
        ({"budget": {"kl": 1e-3}}, "budget is for assign: auto"),
        ({"formats": ["int8"]}, "formats is for assign: auto"),
        ({"assign": "auto", "budget": {"bytes": "two"}}, "bytes: 'two' is not a size like 500MB or 2GiB"),
        ({"assign": "auto", "budget": {"bytes": 1.5}}, "bytes: 1.5 is not a size like 500kB or 2MB"),
        ({"assign": "auto", "budget": {"kl": 0}}, "budget.kl: 0.0 is out of range"),
        ({"assign": "auto", "budget": {"kl": 1e-3}, "formats": ["int9"]}, "formats: 'int9' is no format"),
        ({"assign": "auto", "budget": {"kl": 1e-3}, "formats": ["int8", "int8-static"]}, "int8 has int8 weights alone"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        parse(Quantize, settings, "quantize")


def names(settings, targets=("onnxruntime",)):
    made = parse(Quantize, {"assign": "auto", "budget": {"kl": 1e-3}, **settings}, "q").deployed_on("any", targets)
    return [name_of(spec) for spec in made.choice()]


def test_what_is_chosen_from_follows_from_the_settings_and_the_targets():
    assert names({"group": 64}) == ["int2-g64", "int4-g64", "int8-g64", "float"]
    assert names({"activations": "int8", "dynamic": True, "group": 32}) == [
        "int2-dynamic-g32", "int4-dynamic-g32", "int8-dynamic-g32", "float",
    ]  # fmt: skip
    assert names({"activations": "int8", "dynamic": True, "group": 16}) == [  # no kernel for 2 bits
        "int4-dynamic-g16", "int8-dynamic-g16", "float",
    ]  # fmt: skip
    assert names({"activations": "int8"}) == ["int8-static", "float"]
    assert names({"weights": "fp8"}, ["standard"]) == ["fp8", "float"]
    assert names({"group": 64}, ["tensorrt"]) == ["int4-g64", "int8-g64", "float"]


def test_settings_that_name_layers_decide_them(tiny_model):
    settings = parse(
        Quantize,
        {"assign": "auto", "budget": {"kl": 1e-3}, "group": 16, "keep": ["blocks.0.*"], "head": "int8",
         "override": {"*.ffn.down": {"weights": "int4"}}},
        "q",
    )  # fmt: skip
    found = settings.candidates(tiny_model().transformer)
    assert not any(name.startswith("blocks.0.") for name in found)
    assert [name_of(spec) for spec in found["blocks.1.ffn.down"]] == ["int4-g16"]
    assert [name_of(spec) for spec in found["head"]] == ["int8"]
    assert len(found["blocks.1.ffn.up"]) == 4


def test_static_activations_leave_down_finer_and_the_head_in_float(tiny_model):
    settings = parse(Quantize, {"activations": "int8", "assign": "auto", "budget": {"kl": 1e-3}}, "q")
    found = settings.deployed_on("any", ["onnxruntime"]).candidates(tiny_model().transformer)
    assert "head" not in found
    assert [name_of(spec) for spec in found["blocks.0.ffn.down"]] == ["int8-dynamic-g64", "float"]
    assert found["blocks.0.ffn.up"][0].reduce_range == "pairs"


@pytest.mark.parametrize("kl", [2e-2, 1e-1])
def test_the_budget_is_kept_by_what_was_really_quantized(tiny_model, context, kl):
    model, ours = tiny_model(layers=1), context()
    settings = replace(QUICK, budget=Budget(kl=kl))
    outcome = settings.run(model, ours)
    notes = outcome.notes.assigned
    assert 0 < notes.measured_kl <= kl
    assert notes.tried <= 8
    specs = quantizations(outcome.model.transformer)
    assert {name: name_of(spec) for name, spec in specs.items()} == {
        name: format_name for name, format_name in notes.formats.items() if format_name != "float"
    }
    assert len(set(notes.formats.values())) > 1, "layers differ"
    batch = examples(model.shape, ours.tokens.part("validation"))
    measured = fidelity(model.score(batch.inputs), outcome.model.score(batch.inputs), batch.targets)
    assert measured.kl == pytest.approx(notes.measured_kl, rel=1e-3)


def test_a_looser_budget_takes_fewer_bytes(tiny_model, context):
    sizes = []
    for kl in (1e-3, 1e-1):
        made = replace(QUICK, budget=Budget(kl=kl)).run(tiny_model(layers=1), context())
        sizes.append(made.notes.assigned.layer_bytes)
    assert sizes[1] < sizes[0]


def test_a_budget_of_bytes_is_kept(tiny_model, context):
    settings = replace(QUICK, budget=Budget(size=0.15))
    notes = settings.run(tiny_model(layers=1), context()).notes.assigned
    assert notes.layer_bytes <= 0.15 * notes.float_bytes
    assert len(set(notes.formats.values())) > 1
    assert settings.rehearsal()[0].assign == "none"


def test_a_preflight_counts_the_pictures_that_formats_are_judged_by_and_chooses_none(tiny_model, tiny_tokens):
    model = tiny_model()
    once, times = replace(QUICK, formats=("int4-g16", "float")).rehearsal()
    assert (once.assign, once.budget, once.formats) == ("none", Budget(), ())
    assert times > 1
    streams = 2 * 16 * 64 * 32 * 4  # twice 16 validation pictures of 64 positions, 32 wide
    assert QUICK.keeps(model, tiny_tokens, 8) - once.keeps(model, tiny_tokens, 8) == streams


def test_bytes_that_cannot_be_kept_are_refused_before_anything_is_measured(tiny_model):
    settings = Quantize(group=16, assign="auto", budget=Budget(size=0.01))
    with pytest.raises(
        PassError, match=r"budget: \d+ bytes cannot be kept: the smallest assignment \(15 in int2-g16\)"
    ):
        settings.requires(tiny_model())


def test_an_interrupted_run_goes_on_from_what_it_measured(tiny_model, context, monkeypatch):
    ours, measured, measure = context(), [], LayerCosts.measure

    def stopping(self, unit, specs, formats):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(unit)
        return measure(self, unit, specs, formats)

    settings = QUICK
    monkeypatch.setattr(LayerCosts, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        settings.run(tiny_model(layers=1), ours)
    before, measured = measured, []
    monkeypatch.setattr(
        LayerCosts, "measure", lambda self, unit, *rest: (measured.append(unit), measure(self, unit, *rest))[1]
    )
    made = settings.run(tiny_model(layers=1), ours)
    assert not set(before) & set(measured)
    monkeypatch.setattr(LayerCosts, "measure", measure)
    again = settings.run(tiny_model(layers=1), context(workspace=ours.workspace.parent))
    assert again.notes == made.notes


def test_a_damaged_file_of_costs_is_measured_again(tiny_model, context):
    ours = context()
    (ours.workspace / "layer-costs.json").write_text("{")
    settings = QUICK
    settings.run(tiny_model(layers=1), ours)
    assert json.loads((ours.workspace / "layer-costs.json").read_text())["value"]


def test_without_pictures_to_judge_by_it_is_refused(tiny_model, tiny_tokens, context):
    few = tiny_tokens.take(np.flatnonzero(tiny_tokens.parts == 2))
    settings = QUICK
    with pytest.raises(PassError, match=r"^quantize: assign: auto: layers are judged by at least 2 validation or"):
        settings.run(tiny_model(layers=1), context(tokens=few))

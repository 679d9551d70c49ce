"""What every pass has from its base: a name, checked settings, its name in errors once; and how one is added."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from compress.core.listener import Silent
from compress.core.settings import InputError, setting
from compress.core.store import Store
from compress.passes import Outcome, PassError, TorchPass, find, names
from compress.passes.distill import Distill
from compress.passes.export import Export
from compress.passes.prune_heads import PruneHeads
from compress.passes.prune_layers import PruneLayers
from compress.passes.quantize import Quantize
from compress.passes.quantize_onnx import QuantizeOnnx
from compress.passes.shared.graphs import GraphPass, conforms
from compress.recipe import recipe
from compress.running import pipeline

DOCS = Path(__file__).parents[3] / "docs"
ENTRY = "round-weights = my_passes:RoundWeights"


class LibraryError(Exception):
    """What a library raises that knows nothing of passes."""


@dataclass(frozen=True)
class NeverFits(TorchPass):
    """Fails where its setting says, and counts how far it came."""

    fails: str = setting("nowhere", doc="requires, apply, ensures or library")

    refusals: ClassVar[tuple[type[Exception], ...]] = (LibraryError,)
    came: ClassVar[list[str]] = []

    def at(self, place: str) -> None:
        self.came.append(place)
        if self.fails == place:
            raise PassError(f"no {place}")

    def requires(self, model):
        self.came.clear()
        self.at("requires")

    def apply(self, model, context):
        self.at("apply")
        if self.fails == "library":
            raise LibraryError("no library")
        return Outcome(model)

    def ensures(self, made):
        self.at("ensures")


def test_every_pass_is_called_like_its_class_and_its_file() -> None:
    assert [find(name, "here").name for name in names()] == names()
    assert NeverFits.name == "never-fits"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PruneHeads(ratio=7), "prune-heads.ratio: 7.0 is out of range; it must be between 0 and 1"),
        (lambda: PruneHeads(0.5, score="luck"), "prune-heads.score: 'luck' is not one of 'magnitude', 'taylor'"),
        (lambda: Distill(steps=1.5), "distill.steps: 1.5 is not a whole number"),
        (lambda: PruneLayers(), "prune-layers: count 0 and ratio 0: give exactly one of them, above 0"),
        (lambda: QuantizeOnnx(group=48), "quantize-onnx: group 48: MatMulNBits takes powers of two, 16 to 256"),
    ],
)
def test_settings_are_refused_in_python_too(make, words: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == words


def test_a_recipe_is_refused_in_the_same_words(finished) -> None:
    for settings, words in (
        ("ratio: 7", "passes[0] prune-heads.ratio: 7.0 is out of range; it must be between 0 and 1"),
        ("ratio: 0.25, score: luck", "passes[0] prune-heads.score: 'luck' is not one of 'magnitude', 'taylor'"),
    ):
        path = finished.changed(("prune-heads: {ratio: 0.25, score: magnitude}", f"prune-heads: {{{settings}}}"))
        with pytest.raises(InputError) as caught:
            recipe.load(path)
        assert str(caught.value) == f"{path}: {words}"
        finished.changed((f"prune-heads: {{{settings}}}", "prune-heads: {ratio: 0.25, score: magnitude}"))


def test_a_whole_number_is_the_same_setting_as_its_float() -> None:
    assert repr(PruneHeads(ratio=1)) == repr(PruneHeads(ratio=1.0))
    assert Quantize(reduce_range="auto").int8_range() == "pairs"
    assert Quantize(reduce_range=False).int8_range() is False


def test_a_pass_asks_before_it_works_and_looks_at_what_it_made(tiny_model, context) -> None:
    model = tiny_model(layers=1)
    assert NeverFits().run(model, context()).model is model
    assert NeverFits.came == ["requires", "apply", "ensures"]


@pytest.mark.parametrize(
    ("fails", "came"),
    [
        ("requires", ["requires"]),
        ("apply", ["requires", "apply"]),
        ("library", ["requires", "apply"]),
        ("ensures", ["requires", "apply", "ensures"]),
    ],
)
def test_errors_begin_with_the_name_once_wherever_they_come_from(tiny_model, context, fails, came) -> None:
    with pytest.raises(PassError) as caught:
        NeverFits(fails=fails).run(tiny_model(layers=1), context())
    assert str(caught.value) == f"never-fits: no {fails}"
    assert NeverFits.came == came


def test_a_graph_pass_holds_what_it_made_to_the_rules_of_its_target(tiny_model, context, monkeypatch) -> None:
    @dataclass(frozen=True)
    class Idle(GraphPass):
        def apply(self, model, context):
            return Outcome(model)

    model = Export("standard").run(tiny_model(layers=1), context()).model
    assert Idle().run(model, context()).model is model
    monkeypatch.setattr("export.targets.conformance.violations", lambda made: ["decode: /MatMul: first", "second"])
    with pytest.raises(PassError, match=r"^the graph breaks a rule of standard: decode: /MatMul: first$"):
        conforms(model)
    with pytest.raises(PassError, match=r"^idle: the graph breaks a rule of standard: decode: /MatMul: first$"):
        Idle().run(model, context())


@pytest.mark.slow
def test_a_pass_of_one_file_outside_the_package_runs_in_a_recipe(installed, checkpoint, tmp_path: Path) -> None:
    page = (DOCS / "passes.md").read_text(encoding="utf-8")
    example = re.search(r"^## Write a pass in one file$.*?^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    installed(example, "compress.passes", ENTRY)
    assert "round-weights" in names()
    path = tmp_path / "rounded.yaml"
    path.write_text(
        f"model: {{checkpoint: {checkpoint}}}\n"
        "tokens: {source: digits, calibration: 16, held_out: 20}\n"
        "bench: {batch: [1], threads: 1, repeats: 6, samples: 20}\n"
        "passes: [round-weights: {bits: 6}]\n"
        "engines: {cpu: [export: {target: onnxruntime}]}\n"
    )
    report = pipeline.run(recipe.load(path), Store(tmp_path / "store"), tmp_path / "run", Silent(), preflight=False)
    rounded = report.steps[0]
    assert rounded.name == "round-weights"
    assert list(rounded.notes) == ["largest_change"]
    assert 0 < rounded.fidelity.kl < 0.01

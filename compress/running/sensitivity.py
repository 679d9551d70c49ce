"""What quantizing or pruning each layer alone costs and saves, kept in the store as it is measured.

Nothing of it is measured on held-out pictures, because choices are made from it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.tokens import PARTS, TokenSet
from compress.core.listener import Listener
from compress.core.settings import InputError, digest, parse, plain
from compress.core.sources import source_hash
from compress.core.store import Store
from compress.measure.speed import kernels
from compress.measure.speed.environment import environment
from compress.measure.speed.kernels import Kernel
from compress.measure.statistics import Estimate, bootstrap_mean
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.models.transformer.quantized import LinearQuantization, quantizations
from compress.passes import Context
from compress.passes.quantize import Quantize
from compress.passes.shared import layer_costs, pruned_alone
from compress.passes.shared.alone import Changes, Predictions, scored_pictures
from compress.passes.shared.assigning import ALONE
from compress.passes.shared.format_names import format_called, name_of, weight_bytes
from compress.passes.shared.layer_costs import ByPicture, LayerCosts, Unit, linear_of
from compress.passes.shared.pruned_alone import Pruning, prunings, scores_of
from compress.passes.shared.quantizing import HEAD, sharing_copy
from compress.passes.shared.rounding import Ranges
from compress.recipe import plan as plans
from compress.recipe.recipe import Recipe
from compress.report.data.sensitivity import LayerRow, Sensitivity, by_change
from compress.running.pipeline import load_reference

FORMATS = ("int8-static", "int8", "int4-g128", "int2-g64")
PRUNED = 0.25
FLOAT_BYTES = 4
Times = dict[Kernel, Estimate]


@dataclass(frozen=True)
class Asked:
    """Which changes of the layers are measured, and on how many pictures."""

    formats: tuple[str, ...] = FORMATS
    prune: float = PRUNED  # share of heads and of units; 0: neither
    pictures: int = 0  # 0: as many as `quantize` judges layers by

    def specs(self) -> list[LinearQuantization]:
        """The formats, without float.

        Raises:
            InputError: a name is none.
        """
        found = [format_called(name, "--formats") for name in dict.fromkeys(self.formats)]
        return [spec for spec in found if spec is not None]


def sensitivity(recipe: Recipe, store: Store, listener: Listener, asked: Asked, command: str) -> Sensitivity:
    """Measure a recipe's untouched model, layer by layer; what the store holds is not measured again.

    Layers are rounded as the recipe's first `quantize` rounds them, or as that pass does by default.

    Raises:
        InputError: an input is wrong, or the model has no layers that can be changed one by one.
    """
    if recipe.form is not Form.TORCH:
        raise InputError(f"{recipe.path}: reads an ONNX graph, whose layers no pass changes one by one")
    specs = asked.specs()
    if not specs and not asked.prune:
        raise InputError("--formats and --prune: nothing is asked for; name a format, or a share above 0")
    torch.set_num_threads(recipe.bench.threads)
    tokens = plans.load_tokens(recipe)
    model = load_reference(recipe, tokens)
    if already := quantizations(model.transformer):
        raise InputError(f"{recipe.path}: the model has {len(already)} quantized layers already; name the float one")
    store.prepare()
    try:
        return Measuring(recipe, store, listener, asked, specs, tokens, model).measured(command)
    finally:
        store.release()


class Measuring:
    """One model on its way through all changes."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        listener: Listener,
        asked: Asked,
        specs: Sequence[LinearQuantization],
        tokens: TokenSet,
        model: ImageModel,
    ) -> None:
        self.recipe, self.store, self.listener, self.asked = recipe, store, listener, asked
        self.model, self.transformer, self.tokens = model, model.transformer, tokens
        self.settings = quantize_of(recipe)
        self.specs = tuple(self.settings.in_range(spec) for spec in specs)
        length = tokens.tokens.shape[1]
        try:
            self.scored = scored_pictures(tokens, asked.pictures * length or ALONE)
        except ValueError as error:
            raise InputError(f"{recipe.path}: tokens: {error}") from error
        self.before = Predictions(self.transformer, self.scored)
        self.made_by = {
            "model": plans.reference_node(recipe.model, f"{recipe.path}: model", recipe.form).made_by,
            "tokens": [self.scored.fingerprint(), tokens.part("train", recipe.tokens.calibration).fingerprint()],
            "libraries": plans.versions(),
            "threads": recipe.bench.threads,
        }

    def measured(self, command: str) -> Sensitivity:
        """All rows."""
        context = Context(
            self.model, self.tokens, self.recipe.tokens.calibration, self.recipe.seed, self.store.root / "work"
        )
        rows = [*self.quantized(context), *self.pruned(context)]
        keep_rows(self.store, self.summary, rows)
        return Sensitivity(
            model=self.recipe.model.checkpoint,
            part=PARTS[int(self.scored.parts[0])],
            pictures=len(self.scored),
            rows_at_a_step=self.rows,
            threads=self.recipe.bench.threads,
            layers=tuple(rows),
            environment=environment(),
            command=command,
        )

    @property
    def summary(self) -> str:
        """The key of all rows of this model together."""
        node = plans.reference_node(self.recipe.model, f"{self.recipe.path}: model", self.recipe.form)
        return summary_key(node.key, self.tokens.fingerprint(), self.recipe.bench.threads)

    @property
    def rows(self) -> int:
        """Rows of a product at one step of the smallest batch."""
        shape = self.model.shape
        pictures = min(self.recipe.bench.batch) * (2 if self.model.sampler.guided else 1)
        return pictures * shape.drawing.positions_of_call(shape)

    def quantized(self, context: Context) -> Iterator[LayerRow]:
        """A row for every format of every linear layer."""
        names = [name for name, _ in self.transformer.linears()]
        names += [] if self.transformer.config.tied_head else [HEAD]
        if not self.specs:
            return
        kl: dict[Unit, dict[str, NDArray[np.float64]]]
        with self.listener.work("quantized alone") as progress:
            costs = LayerCosts(
                self.transformer, self.before, replace(context, report=progress),
                Ranges(self.settings.ranges, self.settings.percentile), self.settings.by_outputs, self.remembered,
            )  # fmt: skip
            kl = costs.all({(name,): self.specs for name in names})
        shapes = {name: linear_of(self.transformer, name) for name in names}
        kernels_of = {
            name: [Kernel(linear.in_features, linear.out_features, spec, self.rows) for spec in (None, *self.specs)]
            for name, linear in shapes.items()
        }
        times = self.times([*kernels_of.values()])
        for name, (plain_kernel, *others) in kernels_of.items():
            inputs, outputs = plain_kernel.inputs, plain_kernel.outputs
            for spec, kernel in zip(self.specs, others, strict=True):
                yield row(
                    name, "quantize", name_of(spec), kl[name,][name_of(spec)],
                    weight_bytes(inputs, outputs, None) - weight_bytes(inputs, outputs, spec),
                    [(times[plain_kernel], times[kernel])],
                )  # fmt: skip

    def pruned(self, context: Context) -> Iterator[LayerRow]:
        """A row for the heads and one for the units of every block."""
        found = prunings(self.transformer, self.asked.prune) if self.asked.prune else []
        if not found:
            return
        work = PrunedAlone(self)
        kl = {}
        with self.listener.work("pruned alone") as progress:
            for done, each in enumerate(found):
                kl[each] = np.array(self.remembered_pruning(each, partial(work.kl, each, context)))
                progress(done + 1, len(found), {})
        pairs = {each: [*each.products(self.transformer)] for each in found}
        shapes = {before for products in pairs.values() for before, _ in products}
        after = {shape: {new for products in pairs.values() for old, new in products if old == shape}
                 for shape in shapes}  # fmt: skip
        groups = [
            [Kernel(*each, rows=self.rows) for each in (shape, *sorted(after[shape]))] for shape in sorted(shapes)
        ]
        times = self.times(groups)
        for each in found:
            products = pairs[each]
            saved = sum(FLOAT_BYTES * (old[0] * old[1] - new[0] * new[1]) for old, new in products)
            yield row(
                each.name, "prune", f"{100 * self.asked.prune:.3g}% of {each.structure.noun}", kl[each], saved,
                [(times[Kernel(*old, rows=self.rows)], times[Kernel(*new, rows=self.rows)]) for old, new in products],
            )  # fmt: skip

    def times(self, groups: Sequence[Sequence[Kernel]]) -> Times:
        """Milliseconds of kernels; each group was timed in the same rounds, once on this machine."""
        found: Times = {}
        distinct = dict.fromkeys(tuple(group) for group in groups)
        with self.listener.work("time of products") as progress:
            for done, group in enumerate(distinct):
                found |= self.times_of(group)
                progress(done + 1, len(distinct), {})
        return found

    def times_of(self, group: Sequence[Kernel]) -> Times:
        """The same of one group."""
        threads = self.recipe.bench.threads

        def measure() -> dict[str, Any]:
            timed = kernels.milliseconds(group, threads)
            return {"ms": [(timed[each].value, timed[each].low, timed[each].high) for each in group]}

        said = self.store.measurement(kernels.key_of(group, threads), measure, self.listener.say)
        return {kernel: Estimate(*values) for kernel, values in zip(group, said["ms"], strict=True)}

    def remembered(self, unit: Unit, measure: layer_costs.Measure) -> ByPicture:
        """What a layer adds in the formats, from the store or measured now."""
        settings = self.settings
        decides = (settings.ranges, settings.percentile, settings.rounding, settings.dynamic, plain(self.specs))
        key = digest("quantized alone", self.made_by, source_hash(layer_costs.__name__), unit, decides)
        found: ByPicture = self.store.measurement(key, measure, self.listener.say)
        return found

    def remembered_pruning(self, pruning: Pruning, measure: layer_costs.Measure) -> list[float]:
        """The same of what is pruned."""
        decides = (pruning.name, pruning.structure.noun, pruning.removed)
        key = digest("pruned alone", self.made_by, source_hash(pruned_alone.__name__), decides)
        found: list[float] = self.store.measurement(key, measure, self.listener.say)["kl"]
        return found


class PrunedAlone:
    """What is made only where something is really pruned: importance scores, and streams in front of the blocks."""

    def __init__(self, measuring: Measuring) -> None:
        self.measuring = measuring
        self.changes: Changes | None = None
        self.scores: dict[str, list[torch.Tensor]] = {}

    def kl(self, pruning: Pruning, context: Context) -> ByPicture:
        """KL of each picture, nats."""
        transformer = self.measuring.transformer
        if self.changes is None:
            self.changes = Changes(sharing_copy(transformer), self.measuring.before)
            self.scores = scores_of(transformer, context.calibration_tokens())
        scores = self.scores[pruning.structure.noun][pruning.index]
        return {"kl": pruned_alone.kl_of(self.changes, pruning, scores).tolist()}


def summary_key(reference: str, tokens: str, threads: int) -> str:
    """The key of what was found of a model (its key) with these pictures (their fingerprint), on this machine."""
    return digest("sensitivity", reference, tokens, threads, plain(environment()))


def keep_rows(store: Store, key: str, rows: Sequence[LayerRow]) -> None:
    """Keep rows for `compress search`, beside those of other changes that were measured before."""
    own = {row.change for row in rows}
    before = [row for row in (store.known(key) or {}).get("layers", []) if row["change"] not in own]
    store.note_measurement(key, {"layers": [*before, *plain(rows)]})


def kept_rows(store: Store, reference: str, tokens: str, threads: int) -> dict[str, list[LayerRow]]:
    """The rows of every change that `sensitivity` measured of a model, by the change; empty where it was not run."""
    found = store.known(summary_key(reference, tokens, threads)) or {}
    return by_change(parse(LayerRow, row, "sensitivity") for row in found.get("layers", []))


def command_of(recipe: str | Path, asked: Asked, model: str, tokens: str) -> str:
    """What measures the same again."""
    options = ["--formats", ",".join(asked.formats) or "none", "--prune", f"{asked.prune:g}"]
    for name, given in (("--pictures", asked.pictures), ("--model", model), ("--tokens", tokens)):
        options += [name, str(given)] if given else []
    return shlex.join(["compress", "sensitivity", str(recipe), *options])


def quantize_of(recipe: Recipe) -> Quantize:
    """The settings of a recipe's first `quantize`, or the defaults."""
    steps = [*recipe.steps, *(step for engine in recipe.engines for step in engine.steps)]
    return next((step.setting for step in steps if isinstance(step.setting, Quantize)), Quantize())


def row(
    layer: str,
    kind: Any,
    change: str,
    kl: NDArray[np.float64],
    saved_bytes: int,
    products: Sequence[tuple[Estimate, Estimate]],
) -> LayerRow:
    """One row: KL of each picture (N,), and the times of products before and after."""
    found = bootstrap_mean(kl)
    return LayerRow(
        layer=layer,
        kind=kind,
        change=change,
        kl=found.value,
        kl_ci95=found.ci95,
        saved_bytes=saved_bytes,
        saved_ms=sum(before.value - after.value for before, after in products),
        saved_ms_ci95=(
            sum(before.low - after.high for before, after in products),
            sum(before.high - after.low for before, after in products),
        ),
    )

"""Which number format each layer of a model gets, within a budget: measured alone, then chosen together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core import durable, records
from compress.core.settings import digest, plain
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import LinearQuantization
from compress.passes import Context, Outcome, PassError
from compress.passes.shared.alone import Predictions, scored_pictures
from compress.passes.shared.assigner import AssignedNotes, Assigner, Assignment, Group, UnreachableError
from compress.passes.shared.budget import Budget
from compress.passes.shared.format_names import name_of, weight_bytes
from compress.passes.shared.layer_costs import ByPicture, Formats, LayerCosts, Specs, Unit, linear_of
from compress.passes.shared.rounding import Ranges

ALONE = 4096  # tokens of the pictures that each layer is judged by
TOGETHER = 24_576  # and each assignment
COSTS = "layer-costs.json"  # in the workspace of a pass that is not finished
# Products of one input that engines compute as one, if they have one format.
FUSED = (("attention.query", "attention.key", "attention.value"), ("ffn.gate", "ffn.up"))

Choice = Mapping[str, Sequence[LinearQuantization | None]]  # the formats that each layer may get; None is float


def assigned(
    model: ImageModel,
    context: Context,
    formats: Choice,
    budget: Budget,
    ranges: Ranges,
    rounding: Callable[[Specs], set[str]],
    make: Callable[[Assignment], Outcome[ImageModel]],
    *decides: Any,
) -> tuple[Outcome[ImageModel], AssignedNotes]:
    """What `make` makes of the formats that keep the budget, and how they were chosen.

    `rounding` says which layers of some formats are rounded by their outputs. `decides` is all that layers cost
    something else with, besides their formats.

    Raises:
        PassError: no formats keep the budget, or there are too few pictures to judge layers by.
    """
    transformer, units = model.transformer, grouped(formats)
    try:
        alone, together = (scored_pictures(context.tokens, most) for most in (ALONE, TOGETHER))
    except ValueError as error:
        raise PassError(f"assign: auto: {error}") from error
    named = [(unit, [name_of(spec) for spec in specs]) for unit, specs in units.items()]
    known = Remembered(context.workspace / COSTS, *decides, named)
    kl = LayerCosts(transformer, Predictions(transformer, alone), context, ranges, rounding, known).all(units)
    before = Predictions(transformer, together)

    def measure(assignment: Assignment) -> tuple[float, Outcome[ImageModel] | None]:
        if not any(assignment.values()):
            return 0.0, None
        made = make(assignment)
        return float(before.kl_of(made.model.transformer).mean()), made

    assigner = Assigner(groups_of(transformer, units, kl), measure)
    in_float = float_bytes_of(transformer, formats)
    try:
        if (limit := budget.kl) is not None:
            choice = assigner.within_kl(limit)
        else:
            choice = assigner.within_bytes(budget.bytes_of(in_float))
    except UnreachableError as error:
        raise PassError(str(error)) from error
    return assigner.made(choice), assigner.notes(choice, len(together), in_float)


def check_bytes(transformer: TokenTransformer, formats: Choice, budget: Budget) -> None:
    """Refuse a budget of bytes that no formats keep, before anything is measured.

    Raises:
        PassError: shows the smallest assignment.
    """
    if budget.kl is not None:
        return
    limit = budget.bytes_of(float_bytes_of(transformer, formats))
    try:
        Assigner(groups_of(transformer, grouped(formats)), lambda assignment: (0.0, None)).within_bytes(limit)
    except UnreachableError as error:
        raise PassError(str(error)) from error


def float_bytes_of(transformer: TokenTransformer, names: Choice) -> int:
    """Bytes of the weights of these layers in float32."""
    return sum(bytes_in(transformer, name, None) for name in names)


def grouped(formats: Mapping[str, Sequence[LinearQuantization | None]]) -> Formats:
    """Layers that may have the same formats in units that engines compute as one product."""
    units: dict[tuple[str, ...], list[str]] = {}
    for name, specs in formats.items():
        place, _, own = name.removeprefix("blocks.").partition(".")
        kind = next((fused[0] for fused in FUSED if own in fused), own)
        units.setdefault((place, kind, *map(name_of, specs)), []).append(name)
    return {tuple(names): formats[names[0]] for names in units.values()}


def groups_of(
    transformer: TokenTransformer, units: Formats, kl: Mapping[Unit, Mapping[str, NDArray[np.float64]]] | None = None
) -> list[Group]:
    """What units take and add in each format; nothing is added where no KL (N,) is given."""
    return [
        Group(
            unit,
            tuple(specs),
            tuple(sum(bytes_in(transformer, name, spec) for name in unit) for spec in specs),
            tuple(float(kl[unit][name_of(spec)].mean()) if kl else 0.0 for spec in specs),
        )
        for unit, specs in units.items()
    ]


def bytes_in(transformer: TokenTransformer, name: str, spec: LinearQuantization | None) -> int:
    """Bytes of a layer's weights in a format."""
    linear = linear_of(transformer, name)
    return weight_bytes(linear.in_features, linear.out_features, spec)


class Remembered:
    """What layers cost, in a file that outlives an interruption, for as long as what decides it stays the same."""

    def __init__(self, path: Path, *decides: Any) -> None:
        self.path, self.key = path, digest(*map(plain, decides))
        try:
            self.values: dict[str, Any] = records.read_measurement(path, self.key)
        except (FileNotFoundError, records.Damaged):
            self.values = {}

    def __call__(self, unit: Unit, measure: Callable[[], ByPicture]) -> ByPicture:
        """What a unit costs."""
        name = " ".join(unit)
        if name not in self.values:
            self.values[name] = measure()
            durable.write_text(self.path, json.dumps(records.measurement(self.key, self.values)))
        found: ByPicture = self.values[name]
        return found

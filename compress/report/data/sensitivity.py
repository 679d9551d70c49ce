"""What every layer costs and saves, changed alone: the rows of `compress sensitivity`, and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from compress.core.settings import setting
from compress.measure.speed.environment import Environment

COLUMNS = ("layer", "kind", "change", "kl", "kl_low", "kl_high", "saved_bytes", "saved_ms", "saved_ms_low",
           "saved_ms_high")  # fmt: skip


@dataclass(frozen=True)
class LayerRow:
    """One change of one layer, all others left as they are."""

    layer: str = setting(doc="the linear layer; of pruning its block")
    kind: Literal["quantize", "prune"] = setting(doc="what is done to it")
    change: str = setting(doc="the number format it gets, or the share of what is removed")
    kl: float = setting(doc="mean KL(model || changed model) on the pictures, nats per token")
    kl_ci95: tuple[float, float] = setting(doc="its interval over pictures")
    saved_bytes: int = setting(doc="bytes of its weights in float32 less those after the change")
    saved_ms: float = setting(doc="milliseconds of its products at one step in float32 less those after the change")
    saved_ms_ci95: tuple[float, float] = setting(doc="from the ends of both times' intervals")


@dataclass(frozen=True)
class Sensitivity:
    """What changing each layer alone costs and saves."""

    model: str = setting(doc="the checkpoint")
    part: str = setting(doc="the part of the tokens that its pictures are from")
    pictures: int = setting(doc="pictures that KL was measured on")
    rows_at_a_step: int = setting(doc="rows of a product that was timed: those of one step of drawing")
    threads: int = setting(doc="threads that products ran on")
    layers: tuple[LayerRow, ...] = setting(doc="every change of every layer, in order of execution")
    environment: Environment = setting(doc="where it was measured")
    command: str = setting(doc="what measures it again")

    @property
    def changes(self) -> dict[str, list[LayerRow]]:
        """The rows of each change."""
        return by_change(self.layers)


def by_change(rows: Iterable[LayerRow]) -> dict[str, list[LayerRow]]:
    """Rows of one change together."""
    found: dict[str, list[LayerRow]] = {}
    for row in rows:
        found.setdefault(row.change, []).append(row)
    return found


def by_layer(rows: Iterable[LayerRow]) -> dict[str, dict[str, LayerRow]]:
    """The rows of each layer by their changes."""
    found: dict[str, dict[str, LayerRow]] = {}
    for row in rows:
        found.setdefault(row.layer, {})[row.change] = row
    return found


def as_csv(found: Sensitivity) -> str:
    """A line for each change of each layer, behind one of the columns' names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(lines(found))
    return text.getvalue()


def lines(found: Sensitivity) -> Iterator[tuple[object, ...]]:
    """The cells of each line."""
    for row in found.layers:
        yield (row.layer, row.kind, row.change, row.kl, *row.kl_ci95, row.saved_bytes, row.saved_ms,
               *row.saved_ms_ci95)  # fmt: skip

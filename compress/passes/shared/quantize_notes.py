"""What `quantize` says of the model that it made."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from compress.core.settings import setting
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import parameter_count
from compress.passes.shared.assigner import AssignedNotes
from compress.passes.shared.notes import Notes
from compress.passes.shared.quantizing import Work


@dataclass(frozen=True, kw_only=True)
class QuantizeNotes(Notes):
    """What was quantized, and how far the weights are from what they were."""

    layers: int = setting(doc="layers that are quantized")
    share_of_weights: float = setting(doc="their share of all weights")
    sqnr_db_median: float | None = setting(
        doc="signal to quantization noise of a layer's weights, decibels; the median, where there is a layer"
    )
    sqnr_db_worst: float | None = setting(doc="and of the worst layer")
    worst_layer: str | None = setting(doc="the worst layer")
    float_bytes: dict[str, int] = setting(doc="bytes of what stays in float32, by tensor; those below 0.1 % together")
    rounded: str = setting(doc="how weights were rounded: gptq, or to the nearest code")
    nearest: tuple[str, ...] | None = setting(
        None, doc="layers that gptq left to the nearest code, because they read too few different inputs"
    )
    damped: tuple[str, ...] | None = setting(
        None, doc="layers whose inputs depend on each other linearly, so that gptq's damping chose between codes"
    )
    assigned: AssignedNotes | None = setting(None, doc="what `assign: auto` chose")


def notes_of(work: Work) -> QuantizeNotes:
    """The notes of a model whose layers were replaced."""
    ratios, total = work.ratios.values(), parameter_count(work.transformer)
    return QuantizeNotes(
        layers=len(work.specs),
        share_of_weights=round(sum(work.counts.values()) / total, 4),
        sqnr_db_median=round(statistics.median(ratios), 2) if ratios else None,
        sqnr_db_worst=round(min(ratios), 2) if ratios else None,
        worst_layer=min(work.ratios, key=lambda name: work.ratios[name], default=None),
        float_bytes=float_bytes(work.transformer, total),
        rounded="gptq" if work.damped else "nearest",
        nearest=tuple(work.left) or None,
        damped=tuple(name for name, dependent in work.damped.items() if dependent) or None,
    )


def float_bytes(transformer: TokenTransformer, total: int) -> dict[str, int]:
    """Bytes of the parameters that stayed in float32, the largest first; those below 0.1 % of all weights together."""
    sizes = {name: 4 * each.numel() for name, each in transformer.named_parameters() if not name.startswith("scales.")}
    large = {name: size for name, size in sizes.items() if size >= 4 * total / 1000}
    rest = sum(sizes.values()) - sum(large.values())
    return dict(sorted(large.items(), key=lambda item: -item[1])) | ({"others": rest} if rest else {})

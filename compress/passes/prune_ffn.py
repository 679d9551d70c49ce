"""Remove the least important feed-forward units of every layer; the matrices get smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import MOST_WIDTH, setting
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.passes import Context, Outcome, Pass
from compress.passes.shared.importance import group_gates, magnitude, taylor
from compress.passes.shared.pruning import UNITS, best, check_float, keep_groups, kept_globally, kept_per_layer


@dataclass(frozen=True)
class PruneFfn(Pass):
    """Remove the least important feed-forward units."""

    ratio: float = setting(doc="share of the units to remove", low=0, high=1)
    score: Literal["magnitude", "taylor"] = setting(
        "taylor", doc="importance: norm of the weights, or expected rise of NLL"
    )
    scope: Literal["layer", "global"] = setting(
        "layer", doc="rank within each layer, or all units of the model together"
    )
    multiple: int = setting(
        32, doc="round what a layer keeps to a multiple of this; kernels like whole blocks", low=1, high=MOST_WIDTH
    )

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.TORCH

    def run(self, model: ImageModel, context: Context) -> Outcome:
        """The model without those units.

        Raises:
            PassError: no unit would be left somewhere, or the model is quantized.
        """
        name, transformer = "prune-ffn", model.transformer
        check_float(model, name)
        counts = [UNITS.count(layer) for layer in transformer.config.layers]
        kept = kept_per_layer(name, UNITS.noun, counts, self.ratio, self.multiple) if self.scope == "layer" else []
        if self.score == "taylor":
            scores = taylor(transformer, group_gates(transformer, UNITS), context.calibration_tokens(), context.report)
        else:
            scores = magnitude(transformer, UNITS)
        kept = kept or kept_globally(name, UNITS.noun, scores, self.ratio, self.multiple)
        pruned = keep_groups(transformer, UNITS, best(scores, kept))
        notes = {"removed": sum(counts) - sum(kept), "of": sum(counts), "kept_per_layer": kept}
        return Outcome(model.with_transformer(pruned), notes)

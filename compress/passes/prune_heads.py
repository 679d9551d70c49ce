"""Remove the least important attention heads of every layer; the matrices get smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import setting
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.passes import Context, Outcome, Pass
from compress.passes.shared.importance import group_gates, magnitude, taylor
from compress.passes.shared.pruning import HEADS, best, check_float, keep_groups, kept_globally, kept_per_layer


@dataclass(frozen=True)
class PruneHeads(Pass):
    """Remove the least important attention heads.

    With grouped-query attention a key/value head goes together with the query heads that read it.
    """

    ratio: float = setting(doc="share of the heads to remove", low=0, high=1)
    score: Literal["magnitude", "taylor"] = setting(
        "taylor", doc="importance: norm of the weights, or expected rise of NLL"
    )
    scope: Literal["layer", "global"] = setting(
        "layer", doc="rank within each layer, or all heads of the model together"
    )

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.TORCH

    def run(self, model: ImageModel, context: Context) -> Outcome:
        """The model without those heads.

        Raises:
            PassError: no head would be left somewhere, or the model is quantized.
        """
        name, transformer = "prune-heads", model.transformer
        check_float(model, name)
        counts = [HEADS.count(layer) for layer in transformer.config.layers]
        grouped = any(layer.heads != layer.kv_heads for layer in transformer.config.layers)
        noun = "key/value heads" if grouped else HEADS.noun
        kept = kept_per_layer(name, noun, counts, self.ratio) if self.scope == "layer" else []
        if self.score == "taylor":
            scores = taylor(transformer, group_gates(transformer, HEADS), context.calibration_tokens(), context.report)
        else:
            scores = magnitude(transformer, HEADS)
        kept = kept or kept_globally(name, noun, scores, self.ratio)
        pruned = keep_groups(transformer, HEADS, best(scores, kept))
        notes = {"removed": sum(counts) - sum(kept), "of": sum(counts), "kept_per_layer": kept}
        return Outcome(model.with_transformer(pruned), notes)

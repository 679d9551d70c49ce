"""What `prune-heads` and `prune-ffn` share: they score, choose and remove groups of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import setting
from compress.models.image_model import ImageModel
from compress.passes import Context, Notes, Outcome, TorchPass
from compress.passes.shared.importance import group_masks, magnitude, taylor
from compress.passes.shared.pruning import (
    Structure,
    best,
    check_float,
    check_globally,
    check_per_layer,
    keep_groups,
    kept_globally,
    kept_per_layer,
)


@dataclass(frozen=True, kw_only=True)
class GroupNotes(Notes):
    """How many groups went."""

    removed: int = setting(doc="groups that went")
    of: int = setting(doc="groups that there were")
    kept_per_layer: tuple[int, ...] = setting(doc="groups that each layer keeps")


@dataclass(frozen=True)
class PruneGroups(TorchPass):
    """Remove the least important groups of a structure."""

    ratio: float = setting(doc="share of the groups to remove", low=0, high=1)
    score: Literal["magnitude", "taylor"] = setting(
        "taylor", doc="importance: norm of the weights, or expected rise of NLL"
    )
    scope: Literal["layer", "global"] = setting(
        "layer", doc="rank within each layer, or all groups of the model together"
    )

    structure: ClassVar[Structure]

    @property
    def block(self) -> int:
        """What a layer keeps is rounded to a multiple of this."""
        return 1

    def noun(self, model: ImageModel) -> str:
        """What the groups of a model are called."""
        return self.structure.noun

    def counts(self, model: ImageModel) -> list[int]:
        """Groups of each layer."""
        return [self.structure.count(layer) for layer in model.transformer.config.layers]

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and a ratio that leaves no group somewhere."""
        check_float(model, self.name)
        fits = check_per_layer if self.scope == "layer" else check_globally
        fits(self.noun(model), self.counts(model), self.ratio)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model without those groups."""
        transformer, counts = model.transformer, self.counts(model)
        if self.score == "taylor":
            masks = group_masks(transformer, self.structure)
            scores = taylor(transformer, masks, context.calibration_tokens(), context.report)
        else:
            scores = magnitude(transformer, self.structure)
        if self.scope == "layer":
            kept = kept_per_layer(counts, self.ratio, self.block)
        else:
            kept = kept_globally(scores, self.ratio, self.block)
        pruned = keep_groups(transformer, self.structure, best(scores, kept))
        notes = GroupNotes(removed=sum(counts) - sum(kept), of=sum(counts), kept_per_layer=tuple(kept))
        return Outcome(model.with_transformer(pruned), notes)

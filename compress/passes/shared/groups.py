"""What `prune-heads` and `prune-ffn` share: they score, choose and remove groups of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.settings import setting
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
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
from compress.passes.shared.repair import REPAIR, RepairNotes, kept_bytes, repaired


@dataclass(frozen=True, kw_only=True)
class GroupNotes(Notes):
    """How many groups went."""

    removed: int = setting(doc="groups that went")
    of: int = setting(doc="groups that there were")
    kept_per_layer: tuple[int, ...] = setting(doc="groups that each layer keeps")
    repair: RepairNotes | None = setting(None, doc="what the repair won")


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
    repair: bool = setting(True, doc=REPAIR)

    structure: ClassVar[Structure]
    version: ClassVar[int] = 2

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
        groups = best(scores, kept)
        pruned, won = keep_groups(transformer, self.structure, groups), None
        if self.repair:
            pruned = self.corrected(transformer, pruned, groups, context.calibration_tokens())
            won = repaired(pruned, transformer, context)
        notes = GroupNotes(removed=sum(counts) - sum(kept), of=sum(counts), kept_per_layer=tuple(kept), repair=won)
        return Outcome(model.with_transformer(pruned), notes)

    def corrected(
        self, before: TokenTransformer, pruned: TokenTransformer, kept: Sequence[Tensor], tokens: TokenSet
    ) -> TokenTransformer:
        """The pruned transformer with what normalised all groups together set right for those that are left."""
        return pruned

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of a repair."""
        return kept_bytes(reference.transformer, calibration) if self.repair else 0

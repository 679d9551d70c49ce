"""Remove heads and feed-forward units wherever they matter least, until a share of the parameters is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch

from calibration.tokens import TokenSet
from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.quantized import parameter_count
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.allocation import Piece, cheapest, left, removable
from compress.passes.shared.head_norm import stretched
from compress.passes.shared.importance import group_masks, taylor
from compress.passes.shared.pruning import HEADS, UNITS, Structure, check_float, check_units, keep_groups
from compress.passes.shared.repair import REPAIR, RepairNotes, kept_bytes, repaired


@dataclass(frozen=True, kw_only=True)
class TargetNotes(Notes):
    """What is left where."""

    parameters: float = setting(doc="share of the parameters that is left")
    heads_per_layer: tuple[int, ...] = setting(doc="key/value heads that each layer keeps")
    units_per_layer: tuple[int, ...] = setting(doc="feed-forward units that each layer keeps")
    repair: RepairNotes | None = setting(None, doc="what the repair won")


@dataclass(frozen=True)
class PruneTo(TorchPass):
    """Remove the heads and units that cost least for each parameter, of all layers together, until so many are left.

    What a group costs is the expected rise of NLL, as `score: taylor` of `prune-heads` and `prune-ffn`.
    """

    parameters: float = setting(doc="share of the parameters to keep", low=0, high=1)
    multiple: int = setting(
        32, doc="units go so that a layer keeps a multiple of this; kernels like whole blocks", low=1, high=MOST_WIDTH
    )
    repair: bool = setting(True, doc=REPAIR)

    @property
    def structures(self) -> tuple[tuple[Structure, int], ...]:
        """What goes, and how many of it together."""
        return (HEADS, 1), (UNITS, self.multiple)

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and a share that cannot be reached."""
        check_float(model, self.name)
        check_units(model, self.name)
        layers = model.transformer.config.layers
        unscored = [[torch.zeros(structure.count(layer)) for layer in layers] for structure, _ in self.structures]
        spare = sum(piece.parameters for piece in removable(model.transformer, self.structures, unscored))
        least = 1 - spare / model.parameters()
        if self.parameters < least:
            raise PassError(
                f"parameters {self.parameters:g} cannot be reached: with one head and {self.multiple} units in each "
                f"layer {least:.2f} of them are left; use at least {int(least * 100 + 1) / 100:g}, or prune-layers too"
            )

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model without those groups."""
        transformer, tokens = model.transformer, context.calibration_tokens()
        total, layers = parameter_count(transformer), transformer.config.layers
        masks = [mask for structure, _ in self.structures for mask in group_masks(transformer, structure)]
        scores = taylor(transformer, masks, tokens, context.report)
        pieces = removable(transformer, self.structures, (scores[: len(layers)], scores[len(layers) :]))
        gone: list[Piece] = cheapest(pieces, total - int(self.parameters * total))
        heads, units = (
            left([structure.count(layer) for layer in layers], gone, number)
            for number, (structure, _) in enumerate(self.structures)
        )
        pruned = keep_groups(transformer, HEADS, heads)
        if self.repair:
            pruned = stretched(transformer, pruned, heads, tokens)
        pruned = keep_groups(pruned, UNITS, units)
        notes = TargetNotes(
            parameters=round(parameter_count(pruned) / total, 4),
            heads_per_layer=tuple(map(len, heads)),
            units_per_layer=tuple(map(len, units)),
            repair=repaired(pruned, transformer, context) if self.repair else None,
        )
        return Outcome(model.with_transformer(pruned), notes)

    def rehearsal(self) -> tuple[Self, float]:
        """All but the removal: a copy of two layers consists of other things than layers for its larger part."""
        return replace(self, parameters=1.0), 1.0

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of a repair."""
        return kept_bytes(reference.transformer, calibration) if self.repair else 0

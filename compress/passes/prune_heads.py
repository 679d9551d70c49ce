"""Remove the least important attention heads of every layer; the matrices get smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.settings import setting
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.groups import PruneGroups
from compress.passes.shared.head_norm import stretched
from compress.passes.shared.pruning import HEADS, Structure


@dataclass(frozen=True)
class PruneHeads(PruneGroups):
    """Remove the least important attention heads.

    With grouped-query attention a key/value head goes together with the query heads that read it.
    """

    ratio: float = setting(doc="share of the heads to remove", low=0, high=1)
    scope: Literal["layer", "global"] = setting(
        "layer", doc="rank within each layer, or all heads of the model together"
    )

    structure: ClassVar[Structure] = HEADS

    def noun(self, model: ImageModel) -> str:
        """Heads, or key/value heads where they are shared."""
        grouped = any(layer.heads != layer.kv_heads for layer in model.transformer.config.layers)
        return "key/value heads" if grouped else super().noun(model)

    def corrected(
        self, before: TokenTransformer, pruned: TokenTransformer, kept: Sequence[Tensor], tokens: TokenSet
    ) -> TokenTransformer:
        """Where queries and keys are normalised over all heads together, those that are left as they were among all."""
        return stretched(before, pruned, kept, tokens)

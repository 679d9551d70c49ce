"""Remove the least important feed-forward units of every layer; the matrices get smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.passes.shared.groups import PruneGroups
from compress.passes.shared.pruning import UNITS, Structure, check_units


@dataclass(frozen=True)
class PruneFfn(PruneGroups):
    """Remove the least important feed-forward units."""

    ratio: float = setting(doc="share of the units to remove", low=0, high=1)
    scope: Literal["layer", "global"] = setting(
        "layer", doc="rank within each layer, or all units of the model together"
    )
    multiple: int = setting(
        32, doc="round what a layer keeps to a multiple of this; kernels like whole blocks", low=1, high=MOST_WIDTH
    )

    structure: ClassVar[Structure] = UNITS

    @property
    def block(self) -> int:
        """`multiple`."""
        return self.multiple

    def requires(self, model: ImageModel) -> None:
        """Refuse rotated units too."""
        check_units(model, self.name)
        super().requires(model)

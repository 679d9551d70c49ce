"""Least squares brings a model's residual stream back to the reference's, block by block; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from calibration.tokens import TokenSet
from compress.core.settings import MOST_LAYERS, setting
from compress.models.image_model import ImageModel
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.depths import depths
from compress.passes.shared.quantizing import sharing_copy
from compress.passes.shared.repair import RIDGE, RepairNotes, check_writers, kept_bytes, repair
from compress.passes.shared.same_task import check_same_task


@dataclass(frozen=True, kw_only=True)
class ReconstructNotes(Notes):
    """What the repair won."""

    repair: RepairNotes = setting(doc="the last stream's error before and after")


@dataclass(frozen=True)
class Reconstruct(TorchPass):
    """Solve the layers that write into the residual stream again, so that it comes nearest to the reference's.

    For a model that lost heads, units or layers, or whose other layers were rounded. Quantized layers stay as they are.
    """

    ridge: float = setting(
        RIDGE,
        doc="keeps weights near what they are, relative to the mean square of what the layer multiplies",
        low=0,
        high=1,
    )
    removed: tuple[int, ...] = setting(
        (),
        doc="layers of the reference that the model no longer has; by default they are found by their weights",
        low=0,
        high=MOST_LAYERS,
    )

    def requires(self, model: ImageModel) -> None:
        """Refuse a model that has no layer to solve."""
        check_writers(model.transformer)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with those layers solved; with its own where that brought the stream no nearer.

        Raises:
            PassError: a reference of another shape or of layers that the model's are unlike, or NaN.
        """
        transformer, reference = sharing_copy(model.transformer), context.reference.transformer
        check_same_task(reference, transformer)
        theirs, own = reference.config.width, transformer.config.width
        if theirs != own:
            raise PassError(
                f"the reference's stream is {theirs} wide and the model's {own}, so they cannot be compared; "
                "prune-width repairs what it makes, and so do passes behind it"
            )
        notes = repair(transformer, reference, depths(transformer, reference, self.removed), context, self.ridge)
        return Outcome(model.with_transformer(transformer), ReconstructNotes(repair=notes))

    def rehearsal(self) -> tuple[Self, float]:
        """The same; the copy's layers are not those that the setting names."""
        return replace(self, removed=()), 1.0

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of the model and of the reference."""
        return kept_bytes(reference.transformer, calibration)

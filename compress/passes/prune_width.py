"""Remove channels of the residual stream; every matrix that reads it or writes into it gets smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.channels import keep_channels
from compress.passes.shared.importance import GroupMask, activity, taylor
from compress.passes.shared.narrow_norms import correct_gains, norms
from compress.passes.shared.narrow_repair import repair_narrow
from compress.passes.shared.principal import in_principal_axes, unturnable
from compress.passes.shared.pruning import at_most, check_float, to_multiple
from compress.passes.shared.repair import RepairNotes, kept_bytes


@dataclass(frozen=True, kw_only=True)
class WidthNotes(Notes):
    """How narrow the stream became."""

    width: int = setting(doc="channels that are left")
    of: int = setting(doc="channels that there were")
    parameters: float = setting(doc="share of the parameters that is left")
    score: str = setting(doc="what channels were chosen by")
    variance: float | None = setting(None, doc="share of what the norms read that lies in the principal axes kept")
    repair: RepairNotes | None = setting(None, doc="what the repair won, at the channels that are left")


@dataclass(frozen=True)
class PruneWidth(TorchPass):
    """Remove the least important channels of the residual stream; what is inside of a block keeps its width.

    `pca` turns the stream to its principal axes first, which changes nothing by itself (SliceGPT, arXiv 2401.15024):
    then the smallest go. It needs RMSNorm, or LayerNorm that can become RMSNorm, and a head of its own; modulation
    allows no other basis. `taylor` is the expected rise of NLL when a channel closes behind every norm,
    `activation` the mean square of what the norms give (Minitron, arXiv 2407.14679).
    """

    ratio: float = setting(0.0, doc="share of the channels to remove; give either this or keep", low=0, high=1)
    keep: int = setting(0, doc="channels to keep", low=0, high=MOST_WIDTH)
    score: Literal["auto", "pca", "taylor", "activation"] = setting(
        "auto", doc="importance: share of the stream, expected rise of NLL, or size; auto: pca where it is possible"
    )
    multiple: int = setting(
        32, doc="round what a ratio leaves to a multiple of this; kernels like whole blocks", low=1, high=MOST_WIDTH
    )
    repair: bool = setting(
        True, doc="then solve what reads the stream and what writes into it by least squares, towards the wider model"
    )

    def validate(self) -> None:
        """Refuse both ways to say how many, and neither."""
        if bool(self.ratio) == bool(self.keep):
            raise ValueError(f"ratio {self.ratio:g} and keep {self.keep}: give exactly one of them, above 0")

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, a number of channels that it cannot have, and a basis that it cannot have."""
        check_float(model, self.name)
        config = model.transformer.config
        if config.stream_rotation:
            raise PassError(f"the stream's channels are rotated; put {self.name} before rotate")
        if self.keep > config.width:
            raise PassError(f"the stream has {config.width} channels; keep {self.keep} is more; use at most that")
        if round(self.ratio * config.width) >= config.width:
            most = at_most((config.width - 1) / config.width)
            raise PassError(f"the stream has {config.width} channels; ratio {self.ratio:g} would leave none; {most}")
        reason = unturnable(config)
        if self.score == "pca" and reason:
            raise PassError(f"score pca: the stream cannot be turned, because {reason}; use score: taylor")

    def kept(self, width: int) -> int:
        """How many of so many channels stay."""
        return self.keep or to_multiple(width - round(self.ratio * width), self.multiple, width)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model without those channels.

        Raises:
            PassError: numbers are not finite.
        """
        before, tokens = model.transformer, context.calibration_tokens()
        width, left, score = before.config.width, self.kept(before.config.width), self.chosen(before)
        if left == width:
            return Outcome(model, WidthNotes(width=width, of=width, parameters=1.0, score=score))
        wide, variance = before, None
        if score == "pca":
            wide, shares = in_principal_axes(before, tokens)
            channels, variance = torch.arange(left), round(float(shares[:left].sum()), 6)
        else:
            channels = self.scores(before, context).argsort(descending=True, stable=True)[:left].sort().values
        narrow = keep_channels(wide, channels)
        correct_gains(narrow, wide, channels, tokens)
        made = model.with_transformer(narrow)
        notes = WidthNotes(
            width=left,
            of=width,
            parameters=round(made.parameters() / model.parameters(), 4),
            score=score,
            variance=variance,
            repair=repair_narrow(narrow, wide, channels, context) if self.repair else None,
        )
        return Outcome(made, notes)

    def chosen(self, transformer: TokenTransformer) -> str:
        """The score, `auto` decided."""
        if self.score == "auto":
            return "taylor" if unturnable(transformer.config) else "pca"
        return self.score

    def scores(self, transformer: TokenTransformer, context: Context) -> Tensor:
        """One score for each channel, where channels stay what they are."""
        names, tokens = tuple(norms(transformer)), context.calibration_tokens()
        if self.chosen(transformer) == "activation":
            return activity(transformer, names, tokens, context.report)
        mask = GroupMask(transformer.config.width, outputs=names)
        return taylor(transformer, [mask], tokens, context.report)[0]

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of a repair."""
        return kept_bytes(reference.transformer, calibration) if self.repair else 0

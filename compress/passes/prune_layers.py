"""Remove the least important layers; the model gets shallower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.settings import MOST_LAYERS, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.importance import influences, layer_masks, removal_losses, residual_updates, taylor
from compress.passes.shared.pruning import at_most, check_float, keep_layers
from compress.passes.shared.repair import REPAIR, RepairNotes, kept_bytes, repaired


@dataclass(frozen=True, kw_only=True)
class LayerNotes(Notes):
    """How many layers there were; `removed_layers` are those that went."""

    of: int = setting(doc="layers that there were")
    repair: RepairNotes | None = setting(None, doc="what the repair won")


@dataclass(frozen=True)
class PruneLayers(TorchPass):
    """Remove the least important layers.

    Norms of weights do not compare across layers, so `magnitude` is the size of what a layer adds to the residual
    stream relative to the stream, on calibration tokens. `taylor` is the expected rise of NLL when both residual
    branches close. `influence` is one minus the cosine of the stream in front of a layer and behind it (ShortGPT, arXiv
    2403.03853). `removal` measures that rise instead of expecting it: the layer whose absence costs least goes,
    then the next is looked for in what remains (one scoring of the calibration tokens for each layer and removal).
    """

    count: int = setting(0, doc="layers to remove; give either this or ratio", low=0, high=MOST_LAYERS)
    ratio: float = setting(0.0, doc="share of the layers to remove", low=0, high=1)
    score: Literal["magnitude", "taylor", "influence", "removal"] = setting(
        "taylor",
        doc="importance: size of the residual update, expected rise of NLL, turn of the stream, "
        "or measured rise of NLL",
    )
    repair: bool = setting(True, doc=REPAIR)

    version: ClassVar[int] = 2

    def validate(self) -> None:
        """Refuse both ways to say how many, and neither."""
        if bool(self.count) == bool(self.ratio):
            raise ValueError(f"count {self.count} and ratio {self.ratio:g}: give exactly one of them, above 0")

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and to leave no layer."""
        check_float(model, self.name)
        layers = len(model.transformer.config.layers)
        if self.removed(layers) >= layers:
            chosen, advice = f"count {self.count}", f"use at most {layers - 1}"
            if not self.count:
                chosen, advice = f"ratio {self.ratio:g}", at_most((layers - 1) / layers)
            raise PassError(f"the model has {layers} layers; {chosen} would leave none; {advice}")

    def removed(self, layers: int) -> int:
        """How many of so many layers go."""
        return self.count or round(self.ratio * layers)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model without those layers."""
        layers = len(model.transformer.config.layers)
        removed = self.removed(layers)
        if self.score == "removal":
            kept = self.without_cheapest(model.transformer, removed, context)
        else:
            order = self.scores(model.transformer, context).argsort(stable=True)
            kept = sorted(order[removed:].tolist())
        pruned = keep_layers(model.transformer, kept)
        notes = LayerNotes(
            removed_layers=tuple(index for index in range(layers) if index not in kept),
            of=layers,
            repair=repaired(pruned, model.transformer, context, kept) if self.repair else None,
        )
        return Outcome(model.with_transformer(pruned), notes)

    def scores(self, transformer: TokenTransformer, context: Context) -> Tensor:
        """One score for each layer."""
        tokens = context.calibration_tokens()
        if self.score == "magnitude":
            return residual_updates(transformer, tokens, context.report)
        if self.score == "influence":
            return influences(transformer, tokens, context.report)
        return Tensor([score.item() for score in taylor(transformer, layer_masks(transformer), tokens, context.report)])

    def without_cheapest(self, transformer: TokenTransformer, removed: int, context: Context) -> list[int]:
        """Layers that stay when the one that costs least is removed, again and again."""
        tokens, kept = context.calibration_tokens(), list(range(len(transformer.config.layers)))
        scorings = sum(len(kept) - done for done in range(removed))
        done = 0

        def report(pictures: int, of: int, values: dict[str, float]) -> None:
            nonlocal done
            done += pictures == of
            context.report(done, scorings, values)

        for _ in range(removed):
            del kept[int(removal_losses(transformer, kept, tokens, report).argmin())]
        return kept

    def rehearsal(self) -> tuple[Self, float]:
        """Half the layers: one of two, and none of one."""
        return replace(self, count=0, ratio=0.5), float(max(1, self.count))

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of a repair."""
        return kept_bytes(reference.transformer, calibration) if self.repair else 0

"""Remove the least important layers; the model gets shallower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from compress.core.settings import MOST_LAYERS, setting
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context, Outcome, Pass, PassError
from compress.passes.shared.importance import layer_gates, removal_losses, residual_updates, taylor
from compress.passes.shared.pruning import at_most, check_float, keep_layers


@dataclass(frozen=True)
class PruneLayers(Pass):
    """Remove the least important layers.

    Norms of weights do not compare across layers, so `magnitude` is the size of what a layer adds to the residual
    stream relative to the stream, on calibration tokens. `taylor` is the expected rise of NLL when both residual
    branches close. `removal` measures that rise instead of expecting it: the layer whose absence costs least goes,
    then the next is looked for in what remains (one scoring of the calibration tokens for each layer and removal).
    """

    count: int = setting(0, doc="layers to remove; give either this or ratio", low=0, high=MOST_LAYERS)
    ratio: float = setting(0.0, doc="share of the layers to remove", low=0, high=1)
    score: Literal["magnitude", "taylor", "removal"] = setting(
        "taylor", doc="importance: size of the residual update, expected rise of NLL, or measured rise of NLL"
    )

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.TORCH

    def __post_init__(self) -> None:
        if bool(self.count) == bool(self.ratio):
            raise ValueError(f"count {self.count} and ratio {self.ratio:g}: give exactly one of them, above 0")

    def run(self, model: ImageModel, context: Context) -> Outcome:
        """The model without those layers.

        Raises:
            PassError: no layer would be left, or the model is quantized.
        """
        check_float(model, "prune-layers")
        layers = len(model.transformer.config.layers)
        removed = self.count or round(self.ratio * layers)
        if removed >= layers:
            asked, advice = f"count {self.count}", f"use at most {layers - 1}"
            if not self.count:
                asked, advice = f"ratio {self.ratio:g}", at_most((layers - 1) / layers)
            raise PassError(f"prune-layers: the model has {layers} layers; {asked} would leave none; {advice}")
        if self.score == "removal":
            kept = self.without_cheapest(model.transformer, removed, context)
        else:
            order = self.scores(model.transformer, context).argsort(stable=True)
            kept = sorted(order[removed:].tolist())
        notes = {"removed_layers": [index for index in range(layers) if index not in kept], "of": layers}
        return Outcome(model.with_transformer(keep_layers(model.transformer, kept)), notes)

    def scores(self, transformer: TokenTransformer, context: Context) -> Tensor:
        """One score for each layer."""
        tokens = context.calibration_tokens()
        if self.score == "magnitude":
            return residual_updates(transformer, tokens, context.report)
        return Tensor([score.item() for score in taylor(transformer, layer_gates(transformer), tokens, context.report)])

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

    def rehearsal(self) -> tuple[Pass, float]:
        """Half the layers: one of two, and none of one."""
        return PruneLayers(ratio=0.5, score=self.score), float(max(1, self.count))

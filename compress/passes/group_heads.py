"""Fewer key/value heads than query heads, by the mean of neighbours; the KV cache gets smaller."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.pruning import check_float, filled
from compress.passes.shared.repair import REPAIR, RepairNotes, kept_bytes, repaired


@dataclass(frozen=True, kw_only=True)
class GroupedNotes(Notes):
    """How much smaller the cache is."""

    cache_bytes_before: int = setting(doc="keys and values of one picture in float32, before; 0 where none are kept")
    cache_bytes_after: int = setting(doc="and after")
    repair: RepairNotes | None = setting(None, doc="what the repair won")


@dataclass(frozen=True)
class GroupHeads(TorchPass):
    """Share each key/value head among more query heads: neighbours become their mean.

    Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245); queries stay as they are.
    """

    kv_heads: int = setting(doc="key/value heads that each layer keeps", low=1, high=MOST_WIDTH)
    repair: bool = setting(True, doc=REPAIR)

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and a number that is not a share of every layer's heads."""
        check_float(model, self.name)
        for index, layer in enumerate(model.transformer.config.layers):
            if layer.kv_heads % self.kv_heads:
                fits = [count for count in range(1, layer.kv_heads + 1) if layer.kv_heads % count == 0]
                raise PassError(
                    f"layer {index} has {layer.kv_heads} key/value heads; kv_heads {self.kv_heads} does not divide "
                    f"them; use one of {', '.join(map(str, fits))}"
                )

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with so many key/value heads in every layer."""
        before = model.transformer
        grouped = pooled(before, self.kv_heads)
        notes = GroupedNotes(
            cache_bytes_before=cache_bytes(before),
            cache_bytes_after=cache_bytes(grouped),
            repair=repaired(grouped, before, context) if self.repair else None,
        )
        return Outcome(model.with_transformer(grouped), notes)

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of a repair."""
        return kept_bytes(reference.transformer, calibration) if self.repair else 0


def pooled(transformer: TokenTransformer, heads: int) -> TokenTransformer:
    """A transformer with so many key/value heads in each layer, each the mean of neighbours."""
    config, state = transformer.config, dict(transformer.state_dict())
    for index in range(len(config.layers)):
        for name in ("key", "value"):
            for kind in ("weight", "bias") if config.bias else ("weight",):
                place = f"blocks.{index}.attention.{name}.{kind}"
                state[place] = mean_of_neighbours(state[place], heads, config.head_width)
    layers = [replace(layer, kv_heads=heads) for layer in config.layers]
    return filled(config.with_layers(layers), state)


def mean_of_neighbours(rows: Tensor, heads: int, width: int) -> Tensor:
    """Rows (K width, ...) of heads as those (heads width, ...) of fewer."""
    grouped: Tensor = rows.unflatten(0, (heads, -1, width))
    return grouped.mean(dim=1).flatten(0, 1)


def cache_bytes(transformer: TokenTransformer) -> int:
    """Keys and values of one picture in float32; 0 for an order that keeps none."""
    config = transformer.config
    if config.drawing.masks:
        return 0
    return sum(2 * 4 * layer.kv_heads * config.head_width * config.reach for layer in config.layers)

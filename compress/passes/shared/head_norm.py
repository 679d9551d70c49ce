"""A norm of queries and keys over all heads together, set right for the heads that are left.

Letters: B pictures of a batch, S positions, H heads, d head width.

A norm over all heads divides by their root mean square. Without some of them it divides by that of the rest, so that
every score of a head that is left is wrong by the ratio of the two, for queries times for keys. No weight stands behind
the norm and scaling what goes in changes nothing, so the queries are stretched behind it, by the mean of that ratio on
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from calibration.tokens import TokenSet
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.blockwise import Streams
from compress.passes.shared.pruning import filled


def stretched(
    before: TokenTransformer, pruned: TokenTransformer, kept: Sequence[Tensor], tokens: TokenSet
) -> TokenTransformer:
    """A pruned transformer whose scores are those of `before`, of which each layer keeps these key/value heads.

    Where the model has no norm over all heads it is the pruned one itself.
    """
    if before.config.qk_norm not in ("rms", "rms-stretch"):
        return pruned
    state, streams = dict(pruned.state_dict()), Streams(before, tokens)
    for index, (block, groups, layer) in enumerate(zip(before.blocks, kept, before.config.layers, strict=True)):
        shared = layer.heads // layer.kv_heads
        queries = (groups[:, None] * shared + torch.arange(shared)).flatten()
        factor = ratio(streams, block, "attention.query_norm", queries)
        factor *= ratio(streams, block, "attention.key_norm", groups)
        name = f"blocks.{index}.attention.stretch"
        state[name] = state.get(name, torch.ones(len(queries))) * factor
        streams.advance(block)
    return filled(replace(pruned.config, qk_norm="rms-stretch"), state)


def ratio(streams: Streams, block: nn.Module, norm: str, heads: Tensor) -> float:
    """Mean over positions of the root mean square of these heads relative to that of all, in front of a norm."""
    total, count = 0.0, 0

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal total, count
        squares = given[0].double().square().mean(dim=3)  # (B, H, S)
        found = (squares[:, heads].mean(dim=1) / squares.mean(dim=1)).sqrt()
        total, count = total + float(found.sum()), count + found.numel()

    handle = block.get_submodule(norm).register_forward_pre_hook(look)
    try:
        for _ in streams.through(block):
            pass
    finally:
        handle.remove()
    return total / count

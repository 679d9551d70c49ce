"""The linear layers of a block that write into the residual stream, and where the stream behind each can be seen.

Letters: B pictures of a batch, S positions, D width, K inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.transformer.blocks import Block, BlockContext, TextBlock
from compress.passes.shared.blockwise import Streams


@dataclass(frozen=True)
class Writer:
    """A linear layer whose outputs are added to the stream, times part `gate` of the block's modulation if it has one.

    The sum is what goes into the block's module `seen_by`, or what the block gives.
    """

    name: str
    seen_by: str | None
    gate: int | None = None


def writers(block: nn.Module) -> tuple[Writer, ...]:
    """Those of a block, in order of execution.

    Where norms stand behind the sums (`post_norm`) the sum is the norm's input: a norm has no inverse.
    """
    if isinstance(block, TextBlock):
        return Writer("attention.output", "text_norm"), Writer("text.output", "ffn_norm"), Writer("ffn.down", None)
    assert isinstance(block, Block)
    if block.post_norm:
        return Writer("attention.output", "attention_norm"), Writer("ffn.down", "ffn_norm")
    attention, ffn = (None, None) if block.modulation is None else (2, 5)
    return Writer("attention.output", "ffn_norm", attention), Writer("ffn.down", None, ffn)


def gates(block: nn.Module, around: BlockContext, writer: Writer) -> Tensor | None:
    """What a writer's outputs are multiplied with before they are added, (B, 1 or S, D); None: nothing."""
    if writer.gate is None:
        return None
    assert isinstance(block, Block)
    assert block.modulation is not None
    assert around.condition is not None
    parts: Sequence[Tensor] = block.modulation(around.condition)
    return parts[writer.gate]


def watched(streams: Streams, block: nn.Module, writer: Writer) -> Iterator[tuple[Tensor, Tensor]]:
    """What goes into a writer (B, S, K), and the sum (B, S, D) behind it, of each batch in front of a block."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, given: seen.__setitem__(name, given[0])

    names = [writer.name] if writer.seen_by is None else [writer.name, writer.seen_by]
    hooks = [block.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        for made in streams.through(block):
            yield seen[writer.name], made if writer.seen_by is None else seen[writer.seen_by]
    finally:
        for hook in hooks:
            hook.remove()


def read(around: BlockContext, x: Tensor) -> Tensor | None:
    """Which positions (B, S) of a stream x (B, S, D) anything reads; None: all.

    Padding of a text is seen by nothing but itself, so nothing need be right there.
    """
    if around.mask is None or around.mask.dim() < 4:
        return None
    others = around.mask[:, 0] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    seen = others.any(dim=1)
    seen[:, -1] = True  # nothing comes behind the last position, which predicts
    return seen

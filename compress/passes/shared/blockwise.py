"""The residual streams of the calibration pictures, one block at a time.

A pass that changes blocks in their order of execution (rounding, repair) shows each block what the blocks that it
already changed make of the pictures. The streams in front of one block are all that is kept.

Letters: B pictures of a batch, S positions, D width, K inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from calibration.tokens import TokenSet
from compress.models.transformer.blocks import BlockContext
from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer

TOGETHER = 8  # pictures that go through a block at once

See = Callable[[str, Tensor], None]


class Streams:
    """Residual streams (B, S, D) of pictures in front of one block, batch by batch."""

    def __init__(self, transformer: TokenTransformer, tokens: TokenSet) -> None:
        """Those in front of the first block."""
        self.transformer = transformer
        with torch.no_grad():
            batches = examples(transformer.config.shape, tokens).chunks(TOGETHER)
            self.parts: list[tuple[Tensor, BlockContext]] = [
                transformer.prepare(*batch.tensors(next(transformer.parameters()).device)) for batch in batches
            ]

    def through(self, block: nn.Module) -> Iterator[Tensor]:
        """What a block makes of each batch."""
        for x, around in self.parts:
            with torch.no_grad():  # never around a yield: of two that are read side by side one would end the other's
                made, _ = block(x, self.transformer.inside(around), None)
            yield made

    def advance(self, block: nn.Module) -> None:
        """Stand behind this block instead."""
        for index, made in enumerate(self.through(block)):
            self.parts[index] = (made, self.parts[index][1])

    def watch(self, block: nn.Module, names: Iterable[str], see: See) -> None:
        """Show what goes into each linear layer of these names in a block, as `seen_inputs` does."""
        with seen_inputs(block, names, see):
            for _ in self.through(block):
                pass

    def logits(self) -> Iterator[Tensor]:
        """What stands behind the last block predicts: logits (B, T, O) of each batch."""
        for x, around in self.parts:
            with torch.no_grad():
                made = self.transformer.predictions(x, around)
            yield made


@contextmanager
def seen_inputs(root: nn.Module, names: Iterable[str], see: See) -> Iterator[None]:
    """Call `see` with a name and the layer's inputs (rows, K) whenever a linear layer of one of these names runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, arguments: see(name, arguments[0].detach().flatten(0, -2))

    hooks = [root.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def stream_bytes(transformer: TokenTransformer, pictures: int) -> int:
    """Bytes of the streams of so many pictures, and of the states of a text."""
    config = transformer.config
    positions = config.reach + config.registers + (config.text.length if config.text else 0)
    return 4 * pictures * positions * config.width

"""Gradients of a loss that comes whole or in parts, in one process or the same in several.

Several processes are PyTorch's DistributedDataParallel (DDP): each has all weights, and gradients are averaged while
the backward pass is under way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compress.training.world import World

Part = Callable[[], Tensor]


class Watched(nn.Module):
    """The trained model, as DDP wants it: a module whose forward pass gives what the backward pass begins with.

    Losses call the model's own methods, and the loss is handed through here.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Tensor) -> Tensor:
        """The loss."""
        return loss


class Gradients:
    """Takes gradients of losses, of which each process has its share: the shares of all add up to the loss.

    A model that is `sharded` has them taken and averaged by FSDP.
    """

    def __init__(self, model: nn.Module, world: World, *, sharded: bool = False) -> None:
        self.world = world
        self.synced: DistributedDataParallel | None = None
        if world.size > 1 and not sharded:
            world.alike(model)
            # Buffers are moved by the training itself; float8 ones of quantized layers could not be sent at all.
            self.synced = DistributedDataParallel(Watched(model), forward_sync_buffers=False, init_sync=False)

    def take(self, loss: Tensor | Sequence[Part]) -> Tensor:
        """Add the gradient of the whole loss to each weight's; the whole loss, without its graph.

        Each part's gradient is taken before the next part is computed; processes exchange that of the last, in which
        those before it are contained.
        """
        parts: Sequence[Part] = [lambda: loss] if isinstance(loss, Tensor) else loss
        total = torch.zeros(())
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with contextlib.nullcontext() if last or self.synced is None else self.synced.no_sync():
                value = part()
                # DDP and FSDP take the mean over processes, and the shares are to be added up.
                scaled = value * self.world.size if self.world.size > 1 else value
                (scaled if self.synced is None else self.synced(scaled)).backward()
            total = value.detach() + total.to(value.device)
        return self.world.total(total)

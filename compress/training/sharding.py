"""Weights that are split over processes (FSDP2, arXiv 2304.11277): each keeps a share, and one block whole at a time.

Checkpoints hold whole weights on the CPU, as those of one process do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.transformer.model import TokenTransformer
from compress.training.world import World


def shard(model: TokenTransformer, world: World, device: torch.device) -> None:
    """Split every weight over the processes, block by block; gradients and the optimizer's state follow."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    world.alike(model)
    mesh = init_device_mesh(device.type, (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gathered(model: TokenTransformer) -> TokenTransformer:
    """A model of its own with the whole weights, on the CPU; all processes have to ask for it."""
    made = TokenTransformer(model.config)
    made.load_state_dict(whole(model.state_dict()))
    return made


def whole(state: Any) -> Any:
    """A state with every split tensor in it put together on the CPU; all processes have to ask for it."""
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {name: whole(each) for name, each in state.items()}
    return [whole(each) for each in state] if isinstance(state, list) else state


def split_as(given: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, as `like` is split."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return given
    placed: Tensor = distribute_tensor(given.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return placed


def states_split_as(given: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The whole tensors of a model's state as the model's are split."""
    return {name: split_as(given[name], value) for name, value in model.state_dict().items() if name in given}


def optimizer_split_as(given: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state of an optimizer as the weights that it moves are split."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moved = {
        number: {
            name: split_as(each, weights[number]) if each.shape == weights[number].shape else each
            for name, each in kept.items()
        }
        for number, kept in given["state"].items()
    }
    return {**given, "state": moved}

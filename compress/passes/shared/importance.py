"""Importance scores: how much the model is expected to lose with each group, or each layer.

Letters: B batch, T tokens, D width, V vocabulary, G groups of a layer.

`magnitude` looks at weights alone. `taylor` puts a mask of value 1 on each group and takes the first-order change of
the teacher-forced NLL when the mask closes, |dNLL / dmask|, for every calibration picture, then the mean over pictures:
Michel et al. 2019 (arXiv 1905.10650), equation 2. The derivative equals the sum of weight * gradient over the group's
output columns; taking it picture by picture keeps opposite signs from hiding a group that matters, which for a trained
model (total gradient near zero) they would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.tokens import TokenSet
from compress.models.transformer.examples import Examples, examples, nll
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.pruning import Structure, keep_layers
from compress.training.loop import OnProgress

BATCH = 32


@dataclass(frozen=True)
class GroupMask:
    """Groups that open and close at these linears: each an equal share of the inputs, or of the outputs."""

    groups: int
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def group_masks(transformer: TokenTransformer, structure: Structure) -> list[GroupMask]:
    """A mask for every group of every layer, where the layer's exit reads them."""
    return [
        GroupMask(structure.count(layer), inputs=(f"blocks.{index}.{structure.exit}",))
        for index, layer in enumerate(transformer.config.layers)
    ]


def layer_masks(transformer: TokenTransformer) -> list[GroupMask]:
    """A mask for every layer, on both of its residual branches."""
    return [
        GroupMask(1, outputs=(f"blocks.{index}.attention.output", f"blocks.{index}.ffn.down"))
        for index in range(len(transformer.config.layers))
    ]


def magnitude(transformer: TokenTransformer, structure: Structure) -> list[Tensor]:
    """Euclidean norm of all weights of each group; one tensor (G,) for each layer."""
    state = transformer.state_dict()
    scores = []
    for index, layer in enumerate(transformer.config.layers):
        squares = torch.zeros(structure.count(layer))
        for member in structure.members(transformer.config, layer):
            tensor = state[f"blocks.{index}.{member.name}"].movedim(member.axis, 0)
            squares += tensor.unflatten(0, (-1, member.width)).flatten(1).square().sum(dim=1)
        scores.append(squares.sqrt())
    return scores


def taylor(
    transformer: TokenTransformer, masks: Sequence[GroupMask], tokens: TokenSet, report: OnProgress
) -> list[Tensor]:
    """Mean over pictures of |dNLL / dmask|, in nats per token; one tensor (G,) for each mask."""
    totals = [torch.zeros(mask.groups, dtype=torch.float64) for mask in masks]
    for chunk in chunks(transformer, tokens, report):
        opened = [torch.ones(len(chunk), mask.groups, requires_grad=True) for mask in masks]  # (B, G)
        with torch.enable_grad(), masked_groups(transformer, masks, opened):
            loss = nll(transformer, chunk).sum()
            slopes = torch.autograd.grad(loss, opened)
        for total, slope in zip(totals, slopes, strict=True):
            total += slope.abs().sum(dim=0)
    return [(total / len(tokens)).float() for total in totals]


def activity(transformer: TokenTransformer, names: Sequence[str], tokens: TokenSet, report: OnProgress) -> Tensor:
    """Mean square over positions of what modules of these names give, the mean over them; (D,).

    Muralidharan et al. 2024 (Minitron, arXiv 2407.14679), section 2.2: channels by what the norms give.
    """
    totals = torch.zeros(transformer.config.width, dtype=torch.float64)

    def add(module: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        totals.add_(made.double().square().flatten(0, -2).mean(dim=0), alpha=len(made))

    hooks = [transformer.get_submodule(name).register_forward_hook(add) for name in names]
    try:
        with torch.no_grad():
            for chunk in chunks(transformer, tokens, report):
                transformer(*chunk.tensors())
    finally:
        for hook in hooks:
            hook.remove()
    return (totals / (len(tokens) * len(names))).float()


def residual_updates(transformer: TokenTransformer, tokens: TokenSet, report: OnProgress) -> Tensor:
    """Mean over positions of a layer's update relative to the stream it is added to, |x' - x| / |x|; (layers,)."""
    return over_layers(transformer, tokens, report, lambda x, made: (made - x).norm(dim=-1) / x.norm(dim=-1))


def influences(transformer: TokenTransformer, tokens: TokenSet, report: OnProgress) -> Tensor:
    """Block influence: 1 - cosine of the stream in front of a layer and behind it, mean over positions; (layers,).

    Men et al. 2024 (ShortGPT, arXiv 2403.03853), equation 1.
    """
    return over_layers(transformer, tokens, report, lambda x, made: 1 - functional.cosine_similarity(x, made, dim=-1))


def over_layers(
    transformer: TokenTransformer, tokens: TokenSet, report: OnProgress, compare: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Mean over positions of what `compare` finds (B, S) of the streams (B, S, D) around each layer; (layers,)."""
    totals = torch.zeros(len(transformer.config.layers), dtype=torch.float64)
    with torch.no_grad():
        for chunk in chunks(transformer, tokens, report):
            before = None
            for index, x in enumerate(transformer.layer_outputs(*transformer.prepare(*chunk.tensors()))):  # (B, S, D)
                if before is not None:
                    totals[index - 1] += compare(before, x).mean(dim=1).sum()
                before = x
    return (totals / len(tokens)).float()


def removal_losses(transformer: TokenTransformer, kept: Sequence[int], tokens: TokenSet, report: OnProgress) -> Tensor:
    """NLL, nats per token, without each of the kept layers in turn; (kept,)."""
    losses = []
    with torch.no_grad():
        for index in kept:
            without = keep_layers(transformer, [other for other in kept if other != index])
            parts = chunks(transformer, tokens, report)
            losses.append(sum(nll(without, chunk).sum() for chunk in parts) / len(tokens))
    return torch.stack([torch.as_tensor(loss) for loss in losses])


def chunks(transformer: TokenTransformer, tokens: TokenSet, report: OnProgress) -> Iterator[Examples]:
    """The pictures in batches, as what the transformer reads."""
    done = 0
    for chunk in examples(transformer.config.shape, tokens).chunks(BATCH):
        yield chunk
        done += len(chunk)
        report(done, len(tokens), {})


@contextmanager
def masked_groups(transformer: nn.Module, masks: Sequence[GroupMask], opened: Sequence[Tensor]) -> Iterator[None]:
    """Multiply what the masks name by `opened`, one (B, G) for each mask."""

    def spread(x: Tensor, mask: Tensor) -> Tensor:
        return x * mask.repeat_interleave(x.shape[-1] // mask.shape[1], dim=1)[:, None]  # (B, 1, features)

    def on_input(mask: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor]]:
        return lambda module, arguments: (spread(arguments[0], mask),)

    def on_output(mask: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        return lambda module, arguments, output: spread(output, mask)

    hooks = []
    for mask, values in zip(masks, opened, strict=True):
        hooks += [transformer.get_submodule(name).register_forward_pre_hook(on_input(values)) for name in mask.inputs]
        hooks += [transformer.get_submodule(name).register_forward_hook(on_output(values)) for name in mask.outputs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

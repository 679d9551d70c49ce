"""Where vectors can be rotated without any effect: the residual stream, values of heads, what ffn.down reads.

Letters: D width of the stream, N outputs and K inputs of a linear layer, d head width, b units of a block, n channels.

What makes a vector and what reads it by a product are turned alike: the vectors along the axis of their weights that
runs over its channels are multiplied by one orthogonal matrix, so that readers undo what writers do (QuaRot, arXiv
2404.00456; SpinQuant, arXiv 2405.16406). All is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.bounds import MOST_TABLE
from compress.models.transformer.architecture import GATED, TransformerConfig
from compress.models.transformer.blocks import Attention, TextBlock
from compress.models.transformer.conditioned import CrossAttention
from compress.models.transformer.hadamard import mean_keeping, rotation, sylvester
from compress.models.transformer.model import TokenTransformer

NORMS = ("attention_norm", "ffn_norm")


def stream_obstacle(config: TransformerConfig) -> str | None:
    """Why the stream of such a model cannot be rotated; None: it can."""
    if config.stream_rotation:
        return "the stream is rotated already"
    if config.modulation != "none":
        return f"modulation by {config.modulation} scales and shifts the stream's channels one by one"
    if config.post_norm or config.embedding_norm:
        return "the stream goes through norms, whose gains scale its channels one by one"
    if config.width**2 > MOST_TABLE:
        return f"the stream is {config.width} wide, and its rotation has at most {MOST_TABLE**0.5:g} channels"
    return None


def down_obstacle(config: TransformerConfig, block: int) -> str | None:
    """Why the units that ffn.down reads cannot be rotated in blocks of so many; None: they can."""
    if config.down_rotation:
        return "the units are rotated already"
    for index, layer in enumerate(config.layers):
        if layer.ffn % block:
            return f"layer {index} has {layer.ffn} units, which blocks of {block} do not fill"
    return None


def prepared(transformer: TokenTransformer, *, stream: int, down: int) -> TokenTransformer:
    """A copy whose config says that the stream (by a seed) and the units (in blocks of so many) are rotated; 0: not.

    Its weights are not turned yet. For the stream, a tied head with a gain in front of it becomes a matrix of its own,
    and layers behind norms that shift get biases.
    """
    config, state = transformer.config, dict(transformer.state_dict())
    changes: dict[str, Any] = {"down_rotation": down} if down else {}
    if stream:
        shifted = any(shifts(block.get_submodule(norm)) for block in transformer.blocks for norm in NORMS)
        changes |= {"stream_rotation": stream, "bias": config.bias or shifted}
    if stream and config.patch == 1:  # else a product stands between the stream and the final norm
        changes["head_bias"] = config.head_bias or shifts(transformer.norm)
        if config.tied_head and list(transformer.norm.parameters()):
            changes["tied_head"] = False
            state["head.weight"] = state["embedding.weight"][: config.predicted]
            if config.head_bias:
                state["head.bias"] = state.pop("head_bias")
    made = TokenTransformer(replace(config, **changes)).to(transformer.embedding.weight.dtype)
    added = {name: torch.zeros_like(each) for name, each in made.named_parameters() if name not in state}
    made.load_state_dict(state | added)
    return made.eval()


def shifts(norm: nn.Module) -> bool:
    """Whether a norm adds something to what it gives."""
    bias = getattr(norm, "bias", None)
    return isinstance(bias, Tensor) and bool(bias.any())


def turn_stream(transformer: TokenTransformer) -> None:
    """Absorb the norms, and turn all that writes into the stream or reads it, by the seed in the config, in place.

    The norms stay, with gains of 1 and shifts of 0: a rotation keeps the mean square, and one that keeps equal numbers
    keeps the mean, so that layer norms commute with it as RMS norms do.
    """
    matrix = mean_keeping(transformer.config.width, transformer.config.stream_rotation)
    for norm, readers in behind_norms(transformer):
        absorb(norm, readers)
        for linear in readers:
            turn(linear.weight, matrix, 1)
    for weights, axis in written(transformer):
        turn(weights, matrix, axis)
    if transformer.config.patch > 1:
        turn(transformer.divide.weight, matrix, 1)


def turn_values(transformer: TokenTransformer, seed: int) -> None:
    """Turn the values of each head, which attention only averages, and what its output layer makes of them, in place.

    All heads of a layer are turned alike, so that heads may be pooled behind it as before.
    """
    for block in transformer.blocks:
        for name in ("attention", "text") if isinstance(block, TextBlock) else ("attention",):
            attention = block.get_submodule(name)
            assert isinstance(attention, (Attention, CrossAttention))
            width = attention.head_width
            matrix = rotation(width, seed)
            turn(attention.value.weight.unflatten(0, (-1, width)), matrix, 1)  # (V, d, K)
            if attention.value.bias is not None:
                turn(attention.value.bias.unflatten(0, (-1, width)), matrix, 1)
            turn(attention.output.weight.unflatten(1, (-1, width)), matrix, 2)  # (N, H, d)


def turn_units(transformer: TokenTransformer) -> None:
    """Undo in ffn.down the rotation in front of it that the config says, in place."""
    size = transformer.config.down_rotation
    matrix = sylvester(size) / size**0.5
    for block in transformer.blocks:
        turn(block.get_parameter("ffn.down.weight").unflatten(1, (-1, size)), matrix, 2)


def turn(weights: Tensor, matrix: Tensor, axis: int) -> None:
    """Multiply the vectors (n,) along an axis of weights by a matrix (n, n), in place."""
    held = weights.detach()
    held.copy_((held.double().movedim(axis, -1) @ matrix.mT).movedim(-1, axis))


def absorb(norm: nn.Module, readers: tuple[nn.Linear, ...]) -> None:
    """Move gain and shift of a norm into the linear layers that read it, in place."""
    gain, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    with torch.no_grad():
        for linear in readers:
            weight = linear.weight.double()
            if shift is not None and linear.bias is not None:  # without one the shift is 0
                linear.bias.copy_(linear.bias.double() + weight @ shift.double())
            if gain is not None:
                linear.weight.copy_(weight * gain.double())
        if gain is not None:
            gain.fill_(1)
        if shift is not None:
            shift.zero_()


def behind_norms(transformer: TokenTransformer) -> Iterator[tuple[nn.Module, tuple[nn.Linear, ...]]]:
    """The norms that read the stream, and the linear layers behind each; a tied head reads it in `written`."""
    entries = ("ffn.gate", "ffn.up") if transformer.config.activation in GATED else ("ffn.up",)
    for block in transformer.blocks:
        attention = linears(block, "attention.query", "attention.key", "attention.value")
        yield block.get_submodule("attention_norm"), attention
        yield block.get_submodule("ffn_norm"), linears(block, *entries)
    if transformer.config.patch == 1 and not transformer.config.tied_head:
        yield transformer.norm, (transformer.head,)


def written(transformer: TokenTransformer) -> Iterator[tuple[Tensor, int]]:
    """Everything that is put into the stream, and the axis that runs over its channels."""
    config = transformer.config
    if config.patch > 1:  # embeddings and positions become patches first
        yield transformer.merge.weight, 0
    else:
        yield transformer.embedding.weight, 1
        if config.positions == "learned":
            yield transformer.position.weight, 1
    if config.registers:
        yield transformer.registers, 1
    if config.text:
        yield transformer.text.down.weight, 0
    writers = [each for block in transformer.blocks for each in linears(block, "attention.output", "ffn.down")]
    for linear in [*writers, *([transformer.latent] if config.drawing.scaled else [])]:
        yield linear.weight, 0
        if linear.bias is not None:
            yield linear.bias, 0


def linears(block: nn.Module, *names: str) -> tuple[nn.Linear, ...]:
    """Linear layers of a block by their names."""
    found = []
    for name in names:
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        found.append(linear)
    return tuple(found)

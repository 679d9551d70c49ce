"""The principal axes of the residual stream, and the model in their basis (SliceGPT, arXiv 2401.15024).

Letters: B pictures of a batch, S positions, D channels.

RMSNorm without a gain gives the same in any orthonormal basis. So gains go into the layers behind the norms, and the
stream is turned to its principal axes: those of what all norms of the model read, each position of length 1. The last
axes then hold little. LayerNorm is RMSNorm of a stream whose channels' mean is 0, which the layers that write into it
can see to (SliceGPT, section 3.2). One basis serves the whole model; SliceGPT has one for each block, and products in
the residual connections between them, which cost time and parameters.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from calibration.tokens import TokenSet
from compress.models.transformer.architecture import Norm, TransformerConfig
from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.blockwise import TOGETHER
from compress.passes.shared.channels import TABLES, channel_axes, is_writer, turned
from compress.passes.shared.narrow_norms import norms, spread
from compress.passes.shared.pruning import filled

BEHIND = {  # the layers that read a norm's result
    "attention_norm": ("attention.query", "attention.key", "attention.value"),
    "ffn_norm": ("ffn.gate", "ffn.up"),
    "norm": ("head",),
}


def unturnable(config: TransformerConfig) -> str | None:
    """Why the stream of such a model has no other basis; None where it has."""
    if config.modulation != "none":
        return f"modulation {config.modulation} scales and shifts channel by channel"
    if config.post_norm or config.embedding_norm:
        return "norms stand in the residual stream itself"
    if config.tied_head:
        return "the head is the table of embeddings, which cannot take the last norm's gain"
    if config.norm == "layernorm":
        if not config.bias and config.norm_affine:
            return "the layers behind its norms have no biases to take the norms' shifts"
        if config.patch > 1 or config.final_norm not in (None, "layernorm"):
            return "layers read the stream without LayerNorm, so its mean cannot go"
    return None


def in_principal_axes(transformer: TokenTransformer, tokens: TokenSet) -> tuple[TokenTransformer, Tensor]:
    """A transformer that computes the same, whose channels are its stream's principal axes, and their shares (D,).

    The largest come first. Its norms are RMSNorm without gains, whatever they were.
    """
    plain = without_gains(transformer)
    axes, shares = principal_axes(plain, tokens)
    return turned(plain, axes), shares


def without_gains(transformer: TokenTransformer) -> TokenTransformer:
    """The same transformer with RMSNorm, and with gains and shifts in the layers that read the norms."""
    config, state = transformer.config, dict(transformer.state_dict())
    for name, norm in norms(transformer).items():
        block, _, kind = name.rpartition(".")
        for reader in BEHIND[kind]:
            fold(norm, state, f"{block}.{reader}" if block else reader)
        for key in (f"{name}.weight", f"{name}.bias"):
            state.pop(key, None)
    if config.norm == "layernorm":
        centre(transformer, state)
    shifted = config.final_affine and (config.final_norm or config.norm) != "rmsnorm"
    final: Norm = "none" if config.final_norm == "none" else "rmsnorm"
    plain = replace(config, norm="rmsnorm", norm_affine=False, final_norm=final, final_affine=False)
    return filled(replace(plain, head_bias=config.head_bias or (shifted and final != "none")), state)


def fold(norm: nn.Module, state: dict[str, Tensor], reader: str) -> None:
    """Put a norm's gain and shift into a linear layer of a state dict that reads it, if the model has that layer."""
    weight = state.get(f"{reader}.weight")
    if weight is None:
        return
    if isinstance(shift := getattr(norm, "bias", None), Tensor):
        moved = weight.double() @ shift.detach().double()
        state[f"{reader}.bias"] = (moved + state.get(f"{reader}.bias", torch.zeros(len(weight)))).float()
    if isinstance(gain := getattr(norm, "weight", None), Tensor):
        state[f"{reader}.weight"] = weight * gain.detach()


def centre(transformer: TokenTransformer, state: dict[str, Tensor]) -> None:
    """Take the mean over channels out of all that is written into the stream."""
    for place in channel_axes(transformer):
        if re.fullmatch(TABLES, place.name) or is_writer(place.name):
            tensor = state[place.name].double()
            state[place.name] = (tensor - tensor.mean(dim=place.axis, keepdim=True)).float()


def principal_axes(transformer: TokenTransformer, tokens: TokenSet) -> tuple[Tensor, Tensor]:
    """Orthonormal columns (D, D) and each one's share (D,) of what all norms read, every position of length 1."""
    width = transformer.config.width
    total = torch.zeros(width, width, dtype=torch.float64)

    def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.RMSNorm)
        x = given[0].double()
        x = (x / spread(norm, x)[..., None]).flatten(0, -2)
        total.add_(x.T @ x)

    hooks = [norm.register_forward_pre_hook(look) for norm in norms(transformer).values()]
    try:
        with torch.no_grad():
            for batch in examples(transformer.config.shape, tokens).chunks(TOGETHER):
                transformer(*batch.tensors())
    finally:
        for handle in hooks:
            handle.remove()
    values, axes = torch.linalg.eigh(total)
    return axes.flip(1), values.flip(0) / values.sum()

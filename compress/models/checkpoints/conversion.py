"""A published checkpoint becomes the transformer, its tensors by our names and one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress.core.settings import InputError
from compress.models.checkpoints.family import TorchFamily

if TYPE_CHECKING:
    from torch import Tensor

    from compress.models.checkpoints.checkpoint import Checkpoint, Weights
    from compress.models.tokenizer.model import Tokenizer
    from compress.models.transformer.architecture import TransformerConfig
    from compress.models.transformer.model import TokenTransformer


def read_transformer(
    checkpoint: Checkpoint, family: TorchFamily, config: TransformerConfig, tokenizer: Tokenizer | None
) -> TokenTransformer:
    """The transformer filled tensor by tensor, so that memory holds little more than one copy of the weights."""
    import torch

    from compress.models.checkpoints.checkpoint import Weights
    from compress.models.checkpoints.filling import fill
    from compress.models.transformer.model import TokenTransformer

    with torch.device("meta"):
        transformer = TokenTransformer(config)
    weights = Weights(checkpoint)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield from converted(weights, family, config)
        weights.last = ""
        yield from family.from_tokenizer(tokenizer)

    fill(transformer, tensors(), checkpoint.path, lambda: weights.last)
    return transformer.eval()


def converted(weights: Weights, family: TorchFamily, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
    """The tensors by our names, one at a time.

    Raises:
        InputError: one has a shape that cannot be cut or joined as its family's are; it is named.
    """
    try:
        yield from family.weights(weights, config)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:  # what PyTorch raises of shapes that do not fit
        if not weights.last:
            raise
        shape = weights.shape(weights.last)
        raise InputError(
            f"{weights.path}: tensor '{weights.last}' is {shape}, which does not fit the others ({line_of(error)})"
        ) from error


def line_of(error: Exception) -> str:
    """An error's text on one short line."""
    return " ".join(str(error).split())[:120]

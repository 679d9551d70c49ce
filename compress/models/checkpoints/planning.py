"""The transformer that a checkpoint becomes, from names and shapes alone, or what is missing from it."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from compress.core.settings import InputError
from compress.models.checkpoints.catalogue import torch_family
from compress.models.checkpoints.conversion import converted, line_of
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.recognition import recognise

if TYPE_CHECKING:
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.transformer.architecture import TransformerConfig
    from compress.models.transformer.model import TokenTransformer


def plan(checkpoint: Checkpoint, name: str) -> TokenTransformer:
    """The transformer that a checkpoint becomes as this family, on the meta device; nothing is read.

    Raises:
        InputError: a tensor is missing, or the first name or shape that does not fit.
    """
    import torch

    from compress.models.checkpoints.checkpoint import MissingTensorError, Weights
    from compress.models.checkpoints.filling import fill
    from compress.models.transformer.model import TokenTransformer

    family = torch_family(name)
    if not any(each in checkpoint for each in family.expected):
        raise incomplete(checkpoint, family, family.expected[0], None)
    config = None
    try:
        config = family.architecture(checkpoint)
        with torch.device("meta"):
            transformer = TokenTransformer(config)
        weights = Weights(checkpoint.planned())
        # What comes from the tokenizer's file is as it should be.
        given = [pair for pair in transformer.state_dict().items() if pair[0].startswith("scales.")]
        pairs = itertools.chain(converted(weights, family, config), given)
        fill(transformer, pairs, checkpoint.path, lambda: weights.last)
    except MissingTensorError as error:
        raise incomplete(checkpoint, family, error.name, config) from error
    except (ValueError, ArithmeticError, RuntimeError, TypeError) as error:  # numbers that no model has
        raise InputError(f"{checkpoint.path}: {line_of(error)}") from error
    return transformer


def incomplete(checkpoint: Checkpoint, family: TorchFamily, first: str, config: TransformerConfig | None) -> InputError:
    """The complaint that tensors are missing: the first, how many more where the config is known, and why it may be."""
    from compress.models.checkpoints.absent import Lenient

    lenient = Lenient(checkpoint.planned())
    if config is not None:
        with contextlib.suppress(Exception):  # what was found until then
            for _ in family.weights(lenient, config):
                pass
    lenient.missing.update(each for each in family.expected if each not in checkpoint)
    more = len(lenient.missing - {first})
    counted = f" (and {more} more)" if more else ""
    unread = [each for each in checkpoint if each not in lenient.read] if config is not None else []
    why = instead(checkpoint, family, first, unread)
    return InputError(f"{checkpoint.path}: tensor '{first}' is missing{counted}; {why}")


def instead(checkpoint: Checkpoint, family: TorchFamily, first: str, unread: list[str]) -> str:
    """Why a tensor of a family may be missing; `unread` are those that the family does not need."""
    from compress.models.checkpoints.filling import near
    from compress.models.tokenizer import formats

    actual, name = recognise(checkpoint), family.name
    if actual not in (None, name):
        return f"the names are those of {actual}, not of {name}"
    if actual is None and (kind := formats.recognise(checkpoint)):
        return f"the names are those of an image tokenizer ({kind}), not of {name}"
    twin = family.twins.get(first)
    if twin in checkpoint:
        return f"it may be tied to '{twin}', which has its shape: then save that under this name too"
    return near(first, unread)

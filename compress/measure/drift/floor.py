"""The noise floor: how far the untouched reference drifts from itself in another runtime or number format.

A candidate's drift below it says nothing of the candidate.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.coupled import Coupled
from compress.measure.drift.fidelity import Fidelity
from compress.measure.drift.layers import Layer
from compress.measure.drift.sampled import Sampled
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples

ROWS = 16  # pictures scored at once


@dataclass(frozen=True)
class Floor:
    """Drift of the reference from itself, on the same pictures as every step's."""

    runtime: Fidelity = setting(doc="PyTorch fp32 against the plain fp32 export in ONNX Runtime")
    bf16: Fidelity = setting(doc="PyTorch fp32 against the same weights and activations in bf16")
    sampled: Sampled | None = setting(None, doc="what is drawn from in bf16 against that in fp32")
    coupled: Coupled | None = setting(None, doc="pictures of the same noise by ONNX Runtime against those of PyTorch")
    layers: tuple[Layer, ...] = setting((), doc="the stream behind every layer in bf16 against that in fp32")


def in_bf16(model: ImageModel) -> ImageModel:
    """A copy whose weights and activations are all bf16."""
    return model.with_transformer(copy.deepcopy(model.transformer).to(torch.bfloat16))


def bf16_logits(model: ImageModel, asked: Examples) -> NDArray[np.float32]:
    """Teacher-forced logits (N, T, V) of a model in bf16."""
    parts = []
    with torch.no_grad():
        for chunk in asked.chunks(ROWS):
            inputs, features = chunk.tensors()
            made = model.transformer(inputs, None if features is None else features.to(torch.bfloat16))
            parts.append(made.float())
    return torch.cat(parts).numpy()

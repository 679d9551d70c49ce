"""The noise floor: how far the untouched reference drifts from itself in another runtime or number format.

A candidate's drift below it says nothing of the candidate.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.coupled import Coupled
from compress.measure.drift.fidelity import Fidelity
from compress.measure.drift.layers import LayerDrift, Layers
from compress.measure.drift.sampled import Sampled
from compress.measure.subject import Side, Subject
from compress.models.image_model import ImageModel

VERSIONS = (6, Fidelity.version, Sampled.version, Coupled.version, Layers.version)
ROWS = 16  # pictures scored at once
ROUGH_PICTURES = 64  # at most: processors without bf16 take many times as long for it as for fp32


@dataclass(frozen=True)
class Floor:
    """Drift of the reference from itself, on the same pictures as every step's."""

    runtime: Fidelity = setting(doc="PyTorch fp32 against the plain fp32 export in ONNX Runtime")
    bf16: Fidelity = setting(
        doc="PyTorch fp32 against the same weights and activations in bf16, on at most 64 pictures"
    )
    sampled: Sampled | None = setting(None, doc="the sampling distribution in bf16 against that in fp32")
    coupled: Coupled | None = setting(None, doc="pictures of the same noise by ONNX Runtime against those of PyTorch")
    layers: tuple[LayerDrift, ...] = setting((), doc="the stream behind every layer in bf16 against that in fp32")


class RoughModel(ImageModel):
    """A model whose weights and activations are all bf16."""

    @classmethod
    def of(cls, model: ImageModel) -> RoughModel:
        """A copy of a model in bf16."""
        return cls(**{**vars(model), "transformer": copy.deepcopy(model.transformer).to(torch.bfloat16)})

    def score(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None, batch: int = ROWS
    ) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, V)."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(inputs), batch):
                rows = slice(start, start + batch)
                text = None if features is None else torch.from_numpy(features[rows]).to(torch.bfloat16)
                parts.append(self.transformer(torch.from_numpy(inputs[rows]), text).float())
        return torch.cat(parts).numpy()


def floor(reference: Side) -> Floor:
    """Drift of a model in PyTorch from itself: of its plain export, and of itself in bf16."""
    model = reference.model
    assert isinstance(model, ImageModel)
    exported = Subject(reference.exported, reference)
    few = replace(reference.given, examples=reference.given.examples.take(slice(ROUGH_PICTURES)))
    rough = Subject(Side("the reference in bf16", few, RoughModel.of(model)), Side(reference.name, few, model))
    return Floor(
        runtime=Fidelity.run(exported),
        bf16=Fidelity.run(rough),
        sampled=Sampled.run(rough),
        coupled=Coupled.run(exported),
        layers=Layers.run(rough).layers,
    )

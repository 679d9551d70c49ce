"""The pass `export`: PyTorch to ONNX for one target."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from compress.core.settings import MOST_BATCH, digest, setting
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import Tokenizer
from compress.passes import Context, Notes, Outcome, Pass, distribution
from compress.passes.shared.graphs import conforms
from export.graph.onnx_model import OnnxModel
from export.rewrites.lowering import LoweringError
from export.runtime import deployment
from export.targets import find
from export.tracing.export import Pictures, export_model


@dataclass(frozen=True, kw_only=True)
class ExportNotes(Notes):
    """How large the graph is."""

    nodes: int = setting(doc="nodes of the decode graph")


@dataclass(frozen=True)
class Export(Pass[ImageModel, OnnxModel]):
    """Export the decode step with its KV cache, and the image decoder, to ONNX for one target."""

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.ONNX
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    version: ClassVar[int] = 3
    refusals: ClassVar = (LoweringError,)

    target: str = setting(
        doc="what will run it: onnxruntime (fastest here), standard (ai.onnx only), tensorrt", known=deployment.names
    )
    fixed_batch: int = setting(
        0, doc="rows of a fixed batch, guidance's null rows included; 0 keeps it dynamic", low=0, high=MOST_BATCH
    )

    def environment(self) -> dict[str, str]:
        """The distribution that brings the target, where this project does not."""
        return distribution(self.target, deployment.TARGETS)

    def apply(self, model: ImageModel, context: Context) -> Outcome[OnnxModel]:
        """The ONNX model.

        Raises:
            LoweringError: a layer has no form on the target.
        """
        made = self.exported(model)
        return Outcome(made, ExportNotes(nodes=len(made.decode.graph)))

    def ensures(self, made: OnnxModel) -> None:
        """Refuse a graph that breaks a rule of its target."""
        conforms(made)

    def exported(self, model: ImageModel) -> OnnxModel:
        """The ONNX model; `run` checks it too.

        Raises:
            LoweringError: a layer has no form on the target.
        """
        return export_model(
            model.transformer,
            pictures_of(model.tokenizer),
            find(self.target),
            name=model.name,
            family=model.family,
            sampler=model.sampler,
            parameters=model.parameters(),
            fixed_batch=self.fixed_batch,
        )


LATEST: dict[str, Pictures] = {}  # a run exports one tokenizer beside many transformers


def pictures_of(tokenizer: Tokenizer) -> Pictures:
    """What an engine needs of a tokenizer; of equal tokenizers one after the other it is the same."""
    key = fingerprint(tokenizer)
    if key not in LATEST:
        LATEST.clear()
        LATEST[key] = Pictures(tokenizer.decoder(), tokenizer.encoder(), tokenizer.length, tokenizer.picture)
    return LATEST[key]


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of what the tokenizer is."""
    state = hashlib.sha256(digest(tokenizer.describe()).encode())
    for name, tensor in tokenizer.state().items():
        state.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return state.hexdigest()

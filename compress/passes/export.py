"""The pass `export`: PyTorch to ONNX for one target."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from compress.core.settings import MOST_BATCH, digest, setting
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import Tokenizer
from compress.passes import Context, Outcome, Pass, PassError
from export.graph.onnx_model import OnnxModel
from export.rewrites.lowering import LoweringError
from export.runtime import deployment
from export.targets import find
from export.targets.conformance import check
from export.tracing.export import Pictures, export_model


@dataclass(frozen=True)
class Export(Pass):
    """Export the decode step with its KV cache, and the image decoder, to ONNX for one target."""

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.ONNX
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    version: ClassVar[int] = 2

    target: str = setting(
        doc="what will run it: onnxruntime (fastest here), standard (ai.onnx only), tensorrt", known=deployment.names
    )
    fixed_batch: int = setting(
        0, doc="rows of a fixed batch, guidance's null rows included; 0 keeps it dynamic", low=0, high=MOST_BATCH
    )

    def run(self, model: ImageModel, context: Context) -> Outcome:
        """The ONNX model, checked for its target's rules."""
        made = self.exported(model)
        return Outcome(made, {"nodes": len(list(made.decode.graph))})

    def exported(self, model: ImageModel) -> OnnxModel:
        """The ONNX model.

        Raises:
            PassError: a layer has no form on the target, or the graph breaks one of its rules.
        """
        try:
            made = export_model(
                model.transformer,
                pictures_of(model.tokenizer),
                find(self.target),
                name=model.name,
                family=model.family,
                sampler=model.sampler,
                parameters=model.parameters(),
                fixed_batch=self.fixed_batch,
            )
        except LoweringError as error:
            raise PassError(f"export: {error}") from error
        findings = check(made)
        if findings:
            raise PassError(f"export: the graph breaks a rule of {self.target}: {findings[0]}")
        return made


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

"""The pass `export`: PyTorch to ONNX for one target."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import MOST_BATCH, digest, nearest, setting, shown
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import Tokenizer
from compress.models.transformer.examples import examples
from compress.passes import Context, Notes, Outcome, Pass, PassError, distribution
from compress.passes.shared.graphs import conforms
from export.graph.match import scope
from export.graph.onnx_model import OnnxModel
from export.rewrites.float_ranges import FloatRangeError, Trial, overflows
from export.rewrites.lowering import LoweringError
from export.runtime import deployment
from export.runtime.manifest import Floats
from export.targets import find, in_floats
from export.tracing.export import Pictures, export_model

PICTURES = 16  # calibration pictures on which activations are looked at


@dataclass(frozen=True, kw_only=True)
class ExportNotes(Notes):
    """How large the graph is, and what of it stays in float32."""

    nodes: int = setting(doc="nodes of the decode graph")
    float32_nodes: dict[str, int] | None = setting(None, doc="nodes that half precision leaves in float32, by reason")
    overflow: dict[str, float] | None = setting(
        None, doc="modules that stay in float32 because their activations are too large, and the largest of each"
    )


@dataclass(frozen=True)
class Export(Pass[ImageModel, OnnxModel]):
    """Export the decode step with its KV cache, and the image decoder, to ONNX for one target."""

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.ONNX
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    version: ClassVar[int] = 3
    refusals: ClassVar = (FloatRangeError, LoweringError)

    target: str = setting(
        doc="what will run it: onnxruntime (fastest here), standard (ai.onnx only), tensorrt", known=deployment.names
    )
    fixed_batch: int = setting(
        0, doc="rows of a fixed batch, guidance's null rows included; 0 keeps it dynamic", low=0, high=MOST_BATCH
    )

    floats: Floats = setting("float32", doc="what the graphs compute in, and the type of caches")
    overflow: Literal["keep", "refuse"] = setting(
        "keep", doc="layers whose activations are too large for the floats: keep them in float32, or refuse the model"
    )

    float32: tuple[str, ...] = setting((), doc="modules that stay in float32 in any case, such as head")

    @property
    def reads_tokens(self) -> bool:
        """Half precision is tried on calibration tokens."""
        return self.floats != "float32"

    @property
    def keeps_numbers(self) -> bool:
        """Half precision rounds."""
        return self.floats == "float32"

    def validate(self) -> None:
        """Refuse floats that the target's runtime does not compute in.

        Raises:
            ValueError: which it does.
        """
        if self.floats not in (known := find(self.target).floats):
            raise ValueError(f"{self.target} computes nothing in {self.floats}; use {' or '.join(known)}")
        if self.float32 and self.floats == "float32":
            raise ValueError("float32 names modules though everything is float32; leave it out, or set floats")

    def environment(self) -> dict[str, str]:
        """The distribution that brings the target, where this project does not."""
        return distribution(self.target, deployment.TARGETS)

    def apply(self, model: ImageModel, context: Context) -> Outcome[OnnxModel]:
        """The ONNX model.

        Raises:
            LoweringError: a layer has no form on the target.
            FloatRangeError: activations are too large for the floats.
        """
        made = self.exported(model)
        if self.floats == "float32":
            return Outcome(made, ExportNotes(nodes=len(made.decode.graph)))
        modules = {scope(node) for graph in made.graphs.values() for node in graph.graph}
        if unknown := sorted(set(self.float32) - modules):
            raise PassError(f"float32: no module is called {shown(unknown[0])}; {nearest(unknown[0], sorted(modules))}")
        batch = examples(model.shape, context.calibration_tokens(), context.seed).take(slice(PICTURES))
        trial = Trial(batch.inputs, batch.targets, batch.features)
        found = overflows(made, self.floats, find(self.target).float32_operators, trial, self.float32)
        if found and self.overflow == "refuse":
            raise FloatRangeError(f"{found[0]}; overflow: keep leaves it in float32")
        layers = {layer: each.largest for each in reversed(found) for layer in each.layers}
        half = in_floats(made, self.floats, {*layers, *self.float32})
        notes = ExportNotes(
            nodes=len(half.model.decode.graph), float32_nodes=half.wide, overflow=dict(sorted(layers.items())) or None
        )
        return Outcome(half.model, notes)

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
            class_names=model.class_names,
            licence=model.licence,
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

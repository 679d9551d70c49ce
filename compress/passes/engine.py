"""The pass `engine`: what makes an exported model a faster or handier engine without changing a number of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from compress.artifact import Form
from compress.passes import Context, Outcome, Pass, PassError
from compress.settings import setting
from export.conformance import check
from export.manifest import GENERATE
from export.onnx_model import OnnxModel
from export.sampling_graph import with_sampling
from export.single_file import single_file


@dataclass(frozen=True)
class Engine(Pass):
    """Let the decode graph choose tokens itself, so that only these leave the runtime; on wish, all in one file."""

    sampling: bool = setting(True, doc="guidance, temperature, top-k, top-p and noise inside the graph")
    single_file: bool = setting(False, doc="write the whole generation as one ONNX file too: labels and seed in")

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False

    def run(self, model: OnnxModel, context: Context) -> Outcome:
        """The engine; its notes say what was left out, and why.

        Raises:
            PassError: the graph breaks a rule of its target, or the model cannot be one file.
        """
        notes: dict[str, Any] = {}
        if self.sampling:
            reason = unable(model)
            model = model if reason else with_sampling(model)
            notes["sampling"] = reason or "in the graph"
        if self.single_file:
            if unable(replace(model, manifest=replace(model.manifest, sampling=False))):
                raise PassError("engine: single_file: true needs sampling inside the graph; " + unable(model))
            generate = single_file(model)
            files = {**model.manifest.files, "generate": GENERATE}
            model = replace(model, generate=generate, manifest=replace(model.manifest, files=files))
            notes["single_file"] = f"{GENERATE}, {len(list(generate.graph.all_nodes()))} nodes"
        findings = check(model)
        if findings:
            raise PassError(f"engine: the graph breaks a rule of {model.manifest.target}: {findings[0]}")
        return Outcome(model, notes)


def unable(model: OnnxModel) -> str:
    """Why a graph cannot choose tokens itself; empty where it can."""
    manifest = model.manifest
    if manifest.sampling:
        return "was in the graph already"
    if manifest.target == "tensorrt":
        return "outside: TensorRT sorts too few logits"
    if manifest.fixed_batch:
        return "outside: with a fixed batch, the rows of a picture may be drawn in two calls"
    return ""

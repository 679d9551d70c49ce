"""The pass `hoist`: what does not change while a picture is drawn is computed once, before its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress.models.artifact import Form
from compress.passes import Context, Outcome, Pass, PassError
from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import HoistError, hoist
from export.targets import find
from export.targets.conformance import check


@dataclass(frozen=True)
class Hoist(Pass):
    """Move what depends on the class or the text alone out of the decode graph, into one that runs before the steps."""

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False

    def run(self, model: OnnxModel, context: Context) -> Outcome:
        """The hoisted model; its notes say what moved, and which bytes a step no longer reads.

        Raises:
            PassError: the target has nothing that runs before the steps, or the model is hoisted.
        """
        if reason := find(model.manifest.target).refusals.get("hoist"):
            raise PassError(f"hoist: {reason}")
        try:
            made = hoist(model)
        except HoistError as error:
            raise PassError(f"hoist: {error}") from error
        findings = check(made.model)
        if findings:
            raise PassError(f"hoist: the graph breaks a rule of {model.manifest.target}: {findings[0]}")
        numbers = {
            "nodes": made.nodes,
            "values": made.values,
            "weight_bytes": made.weight_bytes,
            "row_bytes": made.row_bytes,
        }
        return Outcome(made.model, {"hoisted": numbers})

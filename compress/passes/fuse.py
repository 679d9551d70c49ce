"""The pass `fuse`: fewer nodes that compute the same, for the model's target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import setting
from compress.models.artifact import Form
from compress.passes import Context, Outcome, Pass, PassError
from export.graph.onnx_model import OnnxModel
from export.rewrites.fusions import FusionError
from export.targets import fuse
from export.targets.conformance import check

Fusion = Literal["attention", "qkv", "gate-up", "norm", "activation"]


@dataclass(frozen=True)
class Fuse(Pass):
    """Replace nodes of the exported graph by fewer that compute the same, as far as its target can run them."""

    only: tuple[Fusion, ...] = setting(
        (), doc="the fusions to apply, each must match; all that the target runs if empty"
    )

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False

    def run(self, model: OnnxModel, context: Context) -> Outcome:
        """The fused model; its notes count each fusion, and say why one matched nothing.

        Raises:
            PassError: a fusion named in `only` is not for the target or matched nothing.
        """
        try:
            fused = fuse(model, self.only)
        except FusionError as error:
            raise PassError(f"fuse: {error}") from error
        findings = check(fused.model)
        if findings:
            raise PassError(f"fuse: the graph breaks a rule of {model.manifest.target}: {findings[0]}")
        nodes = {"nodes_before": len(list(model.decode.graph)), "nodes": len(list(fused.model.decode.graph))}
        return Outcome(
            fused.model, {"fused": fused.counts, **nodes, **({"missed": fused.missed} if fused.missed else {})}
        )

"""The pass `fuse`: fewer nodes that compute the same, for the model's target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import setting
from compress.passes import Context, Notes, Outcome
from compress.passes.shared.graphs import GraphPass
from export.graph.onnx_model import OnnxModel
from export.rewrites.fusions import FusionError
from export.targets import fuse

Fusion = Literal["attention", "qkv", "gate-up", "norm", "activation"]


@dataclass(frozen=True, kw_only=True)
class FuseNotes(Notes):
    """How many nodes the decode graph has, and why a fusion matched nothing."""

    nodes_before: int = setting(doc="nodes of the graph that was fused")
    nodes: int = setting(doc="nodes that are left")
    missed: dict[str, str] | None = setting(None, doc="where the nearest try of a fusion stopped, and why")


@dataclass(frozen=True)
class Fuse(GraphPass):
    """Replace nodes of the exported graph by fewer that compute the same, as far as its target can run them."""

    only: tuple[Fusion, ...] = setting(
        (), doc="the fusions to apply, each must match; all that the target runs if empty"
    )

    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    refusals: ClassVar = (FusionError,)

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The fused model; its notes count each fusion, and say why one matched nothing.

        Raises:
            FusionError: a fusion named in `only` is not for the target or matched nothing.
        """
        made = fuse(model, self.only)
        before, after = len(model.decode.graph), len(made.model.decode.graph)
        notes = FuseNotes(fused=made.counts, nodes_before=before, nodes=after, missed=made.missed or None)
        return Outcome(made.model, notes)

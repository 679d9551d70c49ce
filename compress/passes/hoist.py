"""The pass `hoist`: what does not change while a picture is drawn is computed once, before its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress.passes import Context, Notes, Outcome
from compress.passes.shared.graphs import GraphPass
from compress.passes.shared.notes import Hoisted
from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import HoistError, hoist


@dataclass(frozen=True)
class Hoist(GraphPass):
    """Move what depends on the class or the text alone out of the decode graph, into one that runs before the steps."""

    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    refusals: ClassVar = (HoistError,)

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The hoisted model; its notes say what moved, and which bytes a step no longer reads.

        Raises:
            HoistError: the model is hoisted.
        """
        made = hoist(model)
        return Outcome(made.model, Notes(hoisted=Hoisted(made.nodes, made.values, made.weight_bytes, made.row_bytes)))

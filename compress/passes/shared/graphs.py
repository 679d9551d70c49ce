"""What passes on graphs share: their target may refuse them, and what they make keeps its rules."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from compress.models.artifact import Form
from compress.passes import Context, Outcome, Pass, PassError
from export.graph.onnx_model import OnnxModel
from export.rewrites.floats import widened
from export.targets import conformance, find, in_floats


class GraphPass(Pass[OnnxModel, OnnxModel]):
    """A pass from graph to graph; what it makes keeps every rule of its target.

    `apply` always works on float32 graphs: those of a model in half precision are widened before it and narrowed
    behind it.
    """

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX

    def requires(self, model: OnnxModel) -> None:
        """Refuse a model whose target does not go with the pass."""
        if reason := find(model.manifest.target).refusals.get(self.name):
            raise PassError(reason)

    def run(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The model that the pass makes, in the floats of the one it was given.

        Raises:
            PassError: as `Pass.run` says.
        """
        with self.named():
            self.requires(model)
            outcome = self.apply(widened(model), context)
            made = in_floats(outcome.model, model.manifest.floats, model.manifest.float32_layers).model
            self.ensures(made)
        return replace(outcome, model=made)

    def ensures(self, made: OnnxModel) -> None:
        """Refuse a graph that breaks a rule of its target."""
        conforms(made)


def conforms(model: OnnxModel) -> None:
    """Refuse a graph that breaks a rule of its target.

    Raises:
        PassError: the first rule.
    """
    if findings := conformance.violations(model):
        raise PassError(f"the graph breaks a rule of {model.manifest.target}: {findings[0]}")

"""What passes on graphs share: their target may refuse them, and what they make keeps its rules."""

from __future__ import annotations

from typing import ClassVar

from compress.models.artifact import Form
from compress.passes import Pass, PassError
from export.graph.onnx_model import OnnxModel
from export.targets import conformance, find


class GraphPass(Pass[OnnxModel, OnnxModel]):
    """A pass from graph to graph; what it makes keeps every rule of its target."""

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX

    def requires(self, model: OnnxModel) -> None:
        """Refuse a model whose target does not go with the pass."""
        if reason := find(model.manifest.target).refusals.get(self.name):
            raise PassError(reason)

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

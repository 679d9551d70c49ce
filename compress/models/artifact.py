"""Forms, and a model at rest: how each form is written to a folder and read back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    from compress.models.image_model import ImageModel
    from export.graph.onnx_model import OnnxModel

Model: TypeAlias = Union["ImageModel", "OnnxModel"]


class Form(Enum):
    """What a model is made of: PyTorch modules, ONNX graphs, or files that a runtime has compiled."""

    TORCH = "torch"
    ONNX = "onnx"
    ENGINE = "engine"


def save(model: Model, folder: Path) -> None:
    """Write a model of any form into an existing, empty folder."""
    from compress.models.image_model import ImageModel

    if isinstance(model, ImageModel):
        from compress.models.families import reference

        reference.save(model, folder)
    else:
        model.save(folder)


def load(folder: Path, form: Form) -> Model:
    """Read what `save` wrote."""
    if form is Form.TORCH:
        from compress.models.families import reference

        return reference.load(folder)
    from export.graph.onnx_model import OnnxModel

    return OnnxModel.load(folder)

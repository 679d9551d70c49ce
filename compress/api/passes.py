"""Passes on their own, without a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.tokens import TokenSet
    from compress.models.adopted import AdoptedModel
    from compress.models.artifact import Model
    from compress.models.image_model import ImageModel
    from compress.passes import Pass


def apply(
    model: ImageModel | AdoptedModel | Model,
    passes: Pass[Any, Any] | Sequence[Pass[Any, Any]],
    tokens: TokenSet,
    *,
    calibration: int = 128,
    seed: int = 0,
    report: Callable[[int, int, dict[str, float]], None] = lambda step, steps, values: None,
) -> Any:
    """The model that passes make of a model, one after the other; the model itself is left as it was.

    `tokens` are the pictures that passes calibrate on (at most the first `calibration` of its training part) and train
    with.
    The result is an `ImageModel` behind PyTorch passes, an `OnnxModel` behind ``export``; ``save(folder)`` writes
    either. Nothing is stored, so nothing is reused; `run` does that.

    Raises:
        InputError: a pass cannot do what it is asked, or takes another form of model, or the tokens do not fit.
    """
    import tempfile

    from compress.core.settings import InputError
    from compress.data.tokens import check_fits
    from compress.models.artifact import Form
    from compress.models.image_model import ImageModel
    from compress.passes import Context, Pass

    chain = [passes] if isinstance(passes, Pass) else list(passes)
    form = Form.TORCH if isinstance(model, ImageModel) else Form.ONNX
    for each in chain:
        if each.accepts is not form:
            raise InputError(f"{type(each).__name__}: takes a model in {each.accepts.value} form, not in {form.value}")
        form = each.returns
    if isinstance(model, ImageModel):
        check_fits(tokens, model, "tokens")
    calibration = min(calibration, len(tokens.part("train")))
    made: Any = getattr(model, "model", model)  # an adopted model stands for its graph
    with tempfile.TemporaryDirectory(prefix="compress-") as room:
        for number, each in enumerate(chain):
            workspace = Path(room) / str(number)
            workspace.mkdir()
            context = Context(model, tokens, calibration, seed, workspace, report)  # type: ignore[arg-type]
            made = each.run(made, context).model
    return made

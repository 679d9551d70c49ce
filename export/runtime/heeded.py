"""Which settings of sampling change what a model draws; one that would be ignored is refused."""

from __future__ import annotations

from typing import Any

from .errors import shown
from .options import OPTIONS
from .sampling import GUIDANCE, Sampler
from .shape import Shape

OF_MASKED = ("steps", "schedule", "reveal", "choice_temperature", "choice_fall")
OF_CHOICE = ("choice_temperature", "choice_fall")
OF_TOKENS = ("temperature", "end_temperature")


def ignored(shape: Shape, sampler: Sampler) -> dict[str, str]:
    """Settings that change nothing where a model draws by this sampler, and why."""
    found = {"guidance_inside": "what is inside a model cannot be changed"}
    if sampler.guidance_inside:
        scale = f"cfg_scale {sampler.cfg_scale:g}"
        found |= dict.fromkeys(GUIDANCE, f"{scale} is inside this model, which draws with no other")
    elif not shape.classes and shape.text is None:
        found |= dict.fromkeys(GUIDANCE, "this model draws without classes, and guidance needs them")
    elif sampler.cfg_scale == 1:
        found |= dict.fromkeys(GUIDANCE[1:], "there is no guidance at cfg_scale 1")
    elif sampler.guidance != "power-cosine":
        found["guidance_power"] = f"guidance {sampler.guidance!r} has none, 'power-cosine' has"
    if not shape.drawing.masks:
        return found | dict.fromkeys(OF_MASKED, f"this model draws {shape.drawing.words}")
    if sampler.reveal in ("halton", "random"):
        found |= dict.fromkeys(OF_CHOICE, f"reveal {sampler.reveal!r} does not ask which tokens are surest")
    if sampler.reveal == "logit":
        found |= dict.fromkeys(OF_TOKENS, "reveal 'logit' draws tokens at choice_temperature")
    return found


def sampler_of(shape: Shape, sampler: Sampler, **given: Any) -> Sampler:
    """A model's sampler with the settings that are given and not None.

    Raises:
        ValueError: one is out of range, or the model would not heed it; those that it heeds are said.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if sampler.guidance_inside:  # the same guidance may be asked for
        given = {
            name: value for name, value in given.items() if name not in GUIDANCE or value != getattr(sampler, name)
        }
        changed = sampler.changed(**{name: value for name, value in given.items() if name not in GUIDANCE})
    else:
        changed = sampler.changed(**given)
    unheeded = ignored(shape, changed)
    for name, value in given.items():
        if name in unheeded and not (name == "cfg_scale" and value == 1 and not sampler.guidance_inside):
            rest = [option.name for option in OPTIONS if option.name not in unheeded]
            raise ValueError(f"{name} {shown(value)}: {unheeded[name]}; leave it out (it takes {', '.join(rest)})")
    steps = shape.drawing.steps(shape, changed)
    if changed.spares_rows and changed.guidance_start >= steps:
        raise ValueError(
            f"guidance_start {changed.guidance_start}: this model draws in {steps} steps, numbered from 0, so none "
            "would be guided"
        )
    return changed

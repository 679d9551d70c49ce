"""Settings that a model would ignore are refused, for every order of drawing."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from export.runtime.drawing import LogitsDrawer, draw
from export.runtime.heeded import ignored, sampler_of
from export.runtime.options import OPTIONS
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, TextShape

CAUSAL = Shape("causal", 7, 2, (2, 4))
MASKED = Shape("masked", 7, 2, (2, 4), modulated=True)
SCALES = Shape("next-scale", 7, 2, (3, 3), modulated=True, scales=(1, 2, 3), latent_width=4)
PLAIN = Shape("causal", 7, 0, (2, 4))
TEXT = Shape("causal", 7, 1, (2, 4), text=TextShape(3, 2))
GUIDED = Sampler(cfg_scale=2.0, steps=4)
INSIDE, COSINE = replace(GUIDED, guidance_inside=True), replace(GUIDED, guidance="power-cosine")
HALTON, LOGIT, RANDOM = (Sampler(reveal=reveal, steps=4) for reveal in ("halton", "logit", "random"))
WITHIN = "cfg_scale 2 is inside this model, which draws with no other"
TAKES = "it takes cfg_scale, temperature, end_temperature, top_k, top_p"
TOKENS = "temperature, end_temperature, top_k, top_p"


@pytest.mark.parametrize(
    ("shape", "sampler", "given", "line"),
    [
        (CAUSAL, Sampler(), {"steps": 5}, f"this model draws token by token; leave it out ({TAKES})"),
        (SCALES, GUIDED, {"reveal": "halton"}, "this model draws scale by scale; leave it out (it takes cfg_scale, "),
        (CAUSAL, Sampler(), {"choice_temperature": 2.0}, "this model draws token by token; "),
        (CAUSAL, INSIDE, {"cfg_scale": 3.0}, f"{WITHIN}; leave it out (it takes {TOKENS})"),
        (MASKED, INSIDE, {"guidance": "linear"}, WITHIN),
        (CAUSAL, INSIDE, {"cfg_scale": 1.0}, WITHIN),
        (PLAIN, Sampler(), {"cfg_scale": 2.0}, "this model draws without classes, and guidance needs them; leave"),
        (CAUSAL, Sampler(), {"guidance": "linear"}, "there is no guidance at cfg_scale 1; "),
        (CAUSAL, GUIDED, {"guidance": "linear", "cfg_scale": 1.0}, "there is no guidance at cfg_scale 1; "),
        (CAUSAL, GUIDED, {"guidance_power": 2.0}, "guidance 'constant' has none, 'power-cosine' has; "),
        (CAUSAL, Sampler(), {"guidance_stop": 4}, "there is no guidance at cfg_scale 1; "),
        (MASKED, HALTON, {"choice_temperature": 2.0}, "reveal 'halton' does not ask which tokens are surest; "),
        (MASKED, GUIDED, {"choice_fall": "before", "reveal": "random"}, "reveal 'random' does not ask which tokens"),
        (MASKED, LOGIT, {"temperature": 2.0}, "reveal 'logit' draws tokens at choice_temperature; "),
    ],
)  # fmt: skip
def test_a_setting_that_would_be_ignored_is_refused(
    shape: Shape, sampler: Sampler, given: dict[str, Any], line: str
) -> None:
    name, value = next(iter(given.items()))
    with pytest.raises(ValueError, match=f"^{name} {value!r}: {re.escape(line)}"):
        sampler_of(shape, sampler, **given)


@pytest.mark.parametrize(
    ("shape", "sampler", "given"),
    [
        (CAUSAL, Sampler(), {"top_k": 3, "steps": None}),
        (CAUSAL, Sampler(), {"cfg_scale": 2.0, "guidance": "power-cosine", "guidance_power": 2.0}),
        (TEXT, Sampler(), {"cfg_scale": 2.0}),
        (PLAIN, Sampler(), {"cfg_scale": 1.0, "temperature": 0.5}),
        (MASKED, HALTON, {"steps": 3, "reveal": "confidence", "choice_temperature": 3.0, "schedule": "linear"}),
    ],
)
def test_what_is_heeded_is_taken(shape: Shape, sampler: Sampler, given: dict[str, Any]) -> None:
    wanted = {name: value for name, value in given.items() if value is not None}
    assert sampler_of(shape, sampler, **given) == sampler.changed(**wanted)


def test_an_interval_behind_the_last_step_is_refused() -> None:
    line = "guidance_start 8: this model draws in 8 steps, numbered from 0, so none would be guided"
    with pytest.raises(ValueError, match=f"^{line}$"):
        sampler_of(CAUSAL, GUIDED, guidance_start=8)
    assert sampler_of(CAUSAL, GUIDED, guidance_start=7).guidance_start == 7


def test_the_guidance_that_is_inside_may_be_asked_for() -> None:
    assert sampler_of(CAUSAL, INSIDE, cfg_scale=2.0, top_k=3) == INSIDE.changed(top_k=3)


class Even:
    """A runner whose logits are random, other ones for each row."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.start = shape, 0

    def begin(self, labels, features=None, prompt=None):
        self.labels, self.start = labels, 0
        return None if self.shape.drawing.masks else self.step(np.zeros((len(labels), self.shape.length), dtype=int))

    def step(self, tokens, positions=None):
        count = tokens.shape[1] if positions is None else len(positions)
        if self.shape.drawing.scaled:
            count = self.shape.side_at(self.start) ** 2
            self.start += count
        elif self.shape.drawing.sequential:
            count = 1
        made = [np.random.default_rng([label, *row]) for label, row in zip(self.labels, tokens, strict=True)]
        return np.stack([3 * each.normal(size=(count, 7)) for each in made]).astype(np.float32)


@pytest.mark.parametrize("shape", [CAUSAL, MASKED, SCALES], ids=lambda shape: shape.order)
@pytest.mark.parametrize("sampler", [GUIDED, COSINE, HALTON, LOGIT, RANDOM], ids=range(5))
def test_what_is_called_ignored_changes_nothing_and_the_rest_something(shape: Shape, sampler: Sampler) -> None:
    other = {
        "cfg_scale": 4.0,
        "guidance": "linear",
        "guidance_power": 3.0,
        "guidance_start": shape.drawing.steps(shape, sampler) - 1,
        "guidance_stop": 2,
        "temperature": 0.3,
        "end_temperature": 0.2,
        "top_k": 2,
        "top_p": 0.4,
        "steps": 3,
        "schedule": "linear",
        "choice_temperature": 9.0,
        "choice_fall": "before",
        "reveal": "confidence" if sampler.reveal == "halton" else "halton",
    }
    assert other.keys() == {option.name for option in OPTIONS}
    labels, unheeded = np.arange(24) % 2, ignored(shape, sampler)
    assert unheeded.keys() <= {field.name for field in fields(Sampler)}
    drawn = lambda by: draw(LogitsDrawer(Even(shape), shape), labels, shape, by, 0)  # noqa: E731
    usual = drawn(sampler)
    for name, value in other.items():
        differs = (drawn(sampler.changed(**{name: value})) != usual).any()
        assert differs == (name not in unheeded), name

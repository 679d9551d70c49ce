"""Drift of the distributions that tokens are really drawn from: after guidance, temperature, top-k and top-p.

Letters: N pictures, n of them at once, T tokens of a picture, V logits of a position.

Guidance draws from null + s * (given - null), so independent errors of the two branches grow by about
sqrt(s^2 + (s - 1)^2); what top-k cuts does not matter at all. So this is what users see. With the same Gumbel noise two
distributions that are TV apart give different tokens with probability 2 TV / (1 + TV) at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.fidelity import log_softmax
from compress.measure.measure import Measure
from compress.measure.quantity import Limit, quantity
from compress.measure.slices import slices
from compress.measure.statistics import bootstrap_mean
from compress.models.guided import guidance_of
from export.runtime.choosing import lead
from export.runtime.cuts import keep
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

if TYPE_CHECKING:
    from compress.measure.subject import Given, Subject

AT_ONCE = 16
MOST_LOGITS = 2**27  # of the class and unconditional each, 512 MB: more pictures are not looked at after guidance
Logits = NDArray[np.float32]
Pair = tuple[Logits, Logits | None]  # conditional, and unconditional


@dataclass(frozen=True)
class Sampled(Measure):
    """Teacher-forced drift of the sampling distribution; intervals are a bootstrap over held-out pictures."""

    name = "sampled"
    version = 6
    title = "Sampling distribution"
    caption = "After guidance, temperature and cuts; 95 % intervals over pictures"

    pictures: int = setting(doc="pictures that were scored", low=2)
    guidance: float = setting(doc="the reference's guidance scale; 1 is none")
    temperature: float = setting(doc="its temperature")
    top_k: int = setting(doc="its top-k; 0 keeps all")
    top_p: float = setting(doc="its top-p; 1 keeps all")
    kl: float = quantity(
        doc="mean KL(reference || candidate) after guidance and temperature, nats per token; before top-k and top-p, "
        "behind which one may allow what the other forbids",
        unit="nats",
        column="KL, nats",
    )
    kl_ci95: tuple[float, float] = setting(doc="its interval")
    total_variation: float = quantity(
        doc="mean total variation after all of it, 0 to 1",
        column="total variation",
        gate=Limit(
            "total_variation",
            "most total variation of the sampling distribution, after guidance, temperature and cuts",
            high=1,
            evidence=True,
        ),
    )
    total_variation_ci95: tuple[float, float] = setting(doc="its interval")
    agreement: float = quantity(
        doc="share of tokens with the same likeliest token after guidance",
        unit="percent",
        better="higher",
        column="agree %",
    )
    agreement_ci95: tuple[float, float] = setting(doc="its interval")
    flip_rate: float = quantity(
        doc="share of tokens that fall differently with the same noise, each after a true past",
        unit="percent",
        column="flips %",
        gate=Limit(
            "flip_rate", "most tokens that fall differently with the same noise, a share", high=1, evidence=True
        ),
    )
    flip_rate_ci95: tuple[float, float] = setting(doc="its interval")
    flip_bound: float = quantity(
        doc="mean of 2 TV / (1 + TV), which the flip rate cannot pass but by chance",
        unit="percent",
        column="their bound %",
    )

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Sampled:
        """Compare the scores of the two after the reference's own sampler, of as many pictures as memory is set for."""
        given, examples, shape = subject.given, subject.given.examples, subject.given.shape
        reference, candidate = subject.reference, subject.candidate
        sampler, count = reference.model.sampler, looked_at(given)
        nulls = candidate.of_slices(slices("unconditional", count, AT_ONCE))

        def chunks() -> Iterator[tuple[Pair, Pair, NDArray[np.bool_]]]:
            for start in range(0, count, AT_ONCE):
                rows = slice(start, min(start + AT_ONCE, count))
                theirs = own = None
                if sampler.guided:
                    theirs, own = reference.unconditional(rows), next(nulls)
                yield (reference.scores[rows], theirs), (candidate.scores[rows], own), examples.scored[rows]

        return sampled(chunks(), shape, sampler, given.seed)


def looked_at(given: Given) -> int:
    """How many of the pictures that are scored are looked at after guidance."""
    return max(2, min(len(given.examples), MOST_LOGITS // (given.shape.length * given.shape.predicted)))


def sampled(
    chunks: Iterator[tuple[Pair, Pair, NDArray[np.bool_]]], shape: Shape, sampler: Sampler, seed: int = 0
) -> Sampled:
    """Compare reference and candidate, a few pictures at a time: logits (n, T, V) of both, and which tokens count.

    Raises:
        ValueError: fewer than 2 pictures.
    """
    rows: list[NDArray[np.float64]] = []
    done = 0
    for reference, candidate, scored in chunks:
        noise = Noise(seed, len(scored), done)
        values = tokenwise(reference, candidate, scored, shape, sampler, noise)  # (n, T, 5)
        rows.append((values * scored[..., None]).sum(axis=1) / scored.sum(axis=1, keepdims=True))
        done += len(scored)
    columns = np.concatenate(rows)
    kl, apart, agreement, flips, bound = (bootstrap_mean(columns[:, index], seed) for index in range(5))
    return Sampled(
        pictures=done,
        guidance=sampler.cfg_scale,
        temperature=sampler.temperature,
        top_k=sampler.top_k,
        top_p=sampler.top_p,
        kl=kl.value,
        kl_ci95=kl.ci95,
        total_variation=apart.value,
        total_variation_ci95=apart.ci95,
        agreement=agreement.value,
        agreement_ci95=agreement.ci95,
        flip_rate=flips.value,
        flip_rate_ci95=flips.ci95,
        flip_bound=bound.value,
    )


def tokenwise(
    reference: Pair, candidate: Pair, scored: NDArray[np.bool_], shape: Shape, sampler: Sampler, noise: Noise
) -> NDArray[np.float64]:
    """KL, total variation, agreement, flips and their bound for each token (n, T, 5)."""
    steps, count = shape.drawing.step_of_each(scored, shape, sampler)
    scales = guidance_of(sampler, shape, scored)
    heat = np.array([sampler.temperature_at(step, count) for step in range(count)], dtype=np.float32)[steps]
    divisor = np.where(heat > 0, heat, 1).astype(np.float32)[..., None]
    tempered: list[Logits] = [guided(pair, scales) / divisor for pair in (reference, candidate)]
    theirs, own = (log_softmax(each.astype(np.float64)) for each in tempered)
    likeliest = [each.argmax(axis=-1) for each in tempered]
    agreement = likeliest[0] == likeliest[1]
    kl = np.maximum((np.exp(theirs) * (theirs - own)).sum(axis=-1), 0.0)
    kept = [keep(each, sampler.cuts) for each in tempered]
    with np.errstate(divide="ignore"):
        apart = np.abs(np.subtract(*(np.exp(log_softmax(each.astype(np.float64))) for each in kept))).sum(axis=-1) / 2
    drawn = [(each + noise.gumbel(0, each.shape[1:])).argmax(axis=-1) for each in kept]
    greedy = heat == 0  # no noise: the likeliest is drawn
    flips = np.where(greedy, ~agreement, drawn[0] != drawn[1])
    apart = np.where(greedy, ~agreement, apart)
    return np.stack([kl, apart, agreement, flips, 2 * apart / (1 + apart)], axis=-1)


def guided(pair: Pair, scales: NDArray[np.float32]) -> Logits:
    """Logits (n, T, V) of a class and of none, with a guidance for each token (n, T)."""
    given, null = pair
    return given if null is None else lead(given, null, scales[..., None])

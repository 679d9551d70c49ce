"""Hidden states of a candidate against the reference's, layer by layer: where drift begins and how it grows.

Letters: N pictures, S positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.states import States, states_of
from compress.measure.measure import Measure
from compress.models.transformer.examples import Examples

if TYPE_CHECKING:
    from compress.measure.subject import Side, Subject

PICTURES = 8
MOST_NUMBERS = 2**26  # of all streams of a model, 256 MB
HIGHEST_SQNR = 200.0  # dB; of equal states there is no finite value
HIGHEST_ERROR = 1e6  # relative; said of NaN and Inf too, which JSON does not have


@dataclass(frozen=True)
class LayerDrift:
    """The residual stream behind one layer."""

    name: str = setting(doc="`embedding`, then `blocks.0`, `blocks.1`, ...: the stream behind it")
    cosine: float = setting(doc="mean cosine between the candidate's and the reference's stream over positions")
    sqnr_db: float = setting(doc=f"signal to noise of the whole stream, dB, at most {HIGHEST_SQNR:g}")
    relative_error: float = setting(
        doc="root of the summed squared difference over that of the summed square; at most "
        f"{HIGHEST_ERROR:g}, which stands for NaN too",
        low=0,
    )


@dataclass(frozen=True)
class Layers(Measure):
    """The stream behind every layer against the reference's; none where one of the two does not show its streams."""

    name = "layers"
    version = 5
    verified = False

    layers: tuple[LayerDrift, ...] = setting(doc="from the embedding on; layers that were pruned have none")

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Layers:
        """Compare the streams of a few pictures."""
        candidate, reference = subject.candidate, subject.reference
        examples, theirs = subject.given.once(f"streams of {reference.name}", lambda: streams(reference))
        try:
            return cls(layers(theirs, states_of(candidate.model, examples), candidate.kept_layers) if theirs else ())
        except ValueError:
            return cls(())

    def in_row(self) -> tuple[LayerDrift, ...]:
        """The layers alone."""
        return self.layers


def streams(side: Side) -> tuple[Examples, States]:
    """A few of the pictures, and a model's streams of them; none where it does not show them."""
    pictures, model, examples = PICTURES, side.model, side.given.examples
    if hasattr(model, "transformer"):
        config = model.transformer.config
        one = examples.inputs.shape[1] * config.width * (len(config.layers) + 1)
        pictures = max(1, min(pictures, MOST_NUMBERS // one))
    few = examples.take(slice(pictures))
    try:
        return few, states_of(model, few)
    except ValueError:
        return few, []


def layers(
    reference: Sequence[NDArray[np.float32]],
    candidate: Sequence[NDArray[np.float32]],
    kept: Sequence[int] | None = None,
) -> tuple[LayerDrift, ...]:
    """Compare streams (N, S, D) before the first block and behind every one.

    `kept` are the reference's blocks that the candidate still has, in order, all if it is not given; a layer has
    the name that it has in the reference.

    Raises:
        ValueError: the two have not as many layers, or other sizes, or the reference never had a block that is kept.
    """
    kept = range(len(reference) - 1) if kept is None else kept
    if any(index + 1 >= len(reference) for index in kept):
        raise ValueError(f"block {max(kept)} is kept of a reference that has {len(reference) - 1} blocks")
    theirs = [reference[0], *(reference[index + 1] for index in kept)]
    if [each.shape for each in theirs] != [each.shape for each in candidate]:
        raise ValueError(f"{len(candidate)} and {len(theirs)} streams do not pair up, or are of other sizes")
    names = ["embedding", *(f"blocks.{index}" for index in kept)]
    return tuple(layer(name, *pair) for name, pair in zip(names, zip(theirs, candidate, strict=True), strict=True))


def layer(name: str, reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> LayerDrift:
    """One stream (N, S, D) against another."""
    theirs, own = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=-1) * np.linalg.norm(own, axis=-1)
    cosine = np.divide((theirs * own).sum(axis=-1), lengths, out=np.ones_like(lengths), where=lengths > 0)
    relative = relative_error(reference, candidate)
    sqnr = HIGHEST_SQNR if relative == 0 else min(HIGHEST_SQNR, -20 * np.log10(relative))
    return LayerDrift(name, float(np.nan_to_num(cosine).mean()), float(sqnr), relative)


def relative_error(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> float:
    """||candidate - reference|| / ||reference||, at most 1e6, which is also said where one of them is not finite."""
    theirs = reference.astype(np.float64)
    signal = float(np.square(theirs).sum())
    noise = float(np.square(candidate.astype(np.float64) - theirs).sum())
    if noise == 0:
        return 0.0
    found = float(np.sqrt(noise / signal)) if signal else 1.0
    return min(found, HIGHEST_ERROR) if np.isfinite(found) else HIGHEST_ERROR

"""What an engine's image decoder loses and wins: its pictures against the reference decoder's of the same tokens.

Letters: N pictures, H x W pixels, C colours, T tokens of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from compress.core.settings import setting
from compress.core.store import file_hash
from compress.measure.measure import Measure
from compress.measure.quantity import Limit, quantity
from compress.measure.speed.pinning import pinned
from compress.measure.speed.timing import Timings, paired
from compress.measure.statistics import bootstrap_mean
from compress.models.candidate import decoder_bytes, pixels_of
from export.runtime.manifest import IMAGE_DECODER

if TYPE_CHECKING:
    from compress.measure.subject import Side, Subject

MOST_PICTURES = 256
HIGHEST_PSNR = 140.0  # dB; a float32 resolves no more, and of equal pictures there is no finite value
# Wang et al., Image Quality Assessment, 2004: a Gaussian window of 1.5 pixels, cut off at 11 x 11.
SIGMA, WINDOW, SMALL_WINDOW = 1.5, 11, 3

Decode = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Decoding(Measure):
    """An image decoder against the reference's on held-out tokens; intervals are a 95 % bootstrap over pictures."""

    name = "decoding"
    version = 6
    stage = "graphs"
    timed = True
    label = "image decoder"

    pictures: int = setting(doc="held-out pictures that were decoded", low=2)
    equal: bool = setting(doc="it is the reference's own graph, so nothing was to be measured")
    psnr: float = quantity(
        doc=f"mean over pictures of the peak signal to noise ratio, dB, at most {HIGHEST_PSNR:g}",
        unit="dB",
        better="higher",
        gate=Limit("decoder_psnr", "least PSNR of the image decoder against the reference's, dB"),
    )
    psnr_ci95: tuple[float, float] = setting(doc="its interval")
    psnr_worst: float = quantity(
        doc="that of the worst picture, dB",
        unit="dB",
        better="higher",
        gate=Limit("decoder_psnr_worst", "least PSNR of the picture that the image decoder shows worst, dB"),
    )
    ssim: float = quantity(
        doc="mean over pictures of the structural similarity, at most 1",
        better="higher",
        gate=Limit("decoder_ssim", "least SSIM of the image decoder against the reference's", high=1),
    )
    ssim_ci95: tuple[float, float] = setting(doc="its interval")
    size_bytes: int = setting(doc="bytes of the decoder's file", low=0)
    reference_size_bytes: int = setting(doc="bytes of the reference's", low=0)
    ms_per_picture: float | None = setting(None, doc="median time to decode one picture alone, milliseconds")
    ms_per_picture_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    reference_ms_per_picture: float | None = setting(None, doc="the same of the reference's, in the same rounds")
    speedup: float | None = setting(None, doc="median over rounds of the reference's time / own time")
    speedup_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Where both have a decoder."""
        return all(side.folder or pixels_of(side.model) for side in (subject.candidate, subject.reference.exported))

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The two files, the pictures, and how decoders are timed."""
        given = subject.given
        hashes = (file_hash(decoder_file(side)) for side in (subject.candidate, subject.reference.exported))
        return *hashes, given.scored, *given.timed

    @classmethod
    def run(cls, subject: Subject) -> Decoding:
        """Decode with both, unless they are the same file."""
        given, sides = subject.given, (subject.candidate, subject.reference.exported)
        tokens = given.examples.targets[:MOST_PICTURES]
        if all(side.folder for side in sides):
            own_file, reference_file = (decoder_file(side) for side in sides)
            if file_hash(own_file) == file_hash(reference_file):
                return same(len(tokens), own_file.stat().st_size)
        models = [side.engine or side.model for side in sides]
        own, reference = (pixels_of(model) for model in models)
        assert own is not None
        assert reference is not None
        sizes, one = tuple(decoder_bytes(model) for model in models), tokens[:1]
        with pinned(given.threads), given.listener.work(f"decode with {subject.candidate.name}") as progress:
            runners = {"own": lambda: own(one), "reference": lambda: reference(one)}
            timings = paired(runners, given.repeats, seed=given.seed)
            report = lambda done, count: progress(done, count, {})  # noqa: E731
            return compared(own, reference, tokens, sizes, timings, given.seed, report)  # type: ignore[arg-type]


def decoder_file(side: Side) -> Path:
    """The image decoder of an engine."""
    assert side.folder is not None
    return side.folder / IMAGE_DECODER


def same(pictures: int, size_bytes: int) -> Decoding:
    """What is said of a decoder that is the reference's own graph."""
    highest, one = (HIGHEST_PSNR, HIGHEST_PSNR), (1.0, 1.0)
    return Decoding(pictures, True, HIGHEST_PSNR, highest, HIGHEST_PSNR, 1.0, one, size_bytes, size_bytes)


def compared(
    own: Decode,
    reference: Decode,
    tokens: NDArray[np.int64],
    sizes: tuple[int, int],
    timings: Timings,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Decoding:
    """Compare two decoders on tokens (N, T); `sizes` are bytes, and `timings` are of 'own' and 'reference'.

    Pictures are compared before they are rounded to 256 levels, clamped to 0..1.

    Raises:
        ValueError: fewer than 2 pictures, or a picture that holds NaN.
    """
    psnrs, ssims = [], []
    for row in range(len(tokens)):  # one by one: several at once need as many times the memory, and no less time
        report(row, len(tokens))
        first, second = (clamped(decode(tokens[row : row + 1])[0]) for decode in (own, reference))
        psnrs.append(psnr(first, second))
        ssims.append(ssim(first, second))
    loss, likeness = bootstrap_mean(np.array(psnrs), seed), bootstrap_mean(np.array(ssims), seed)
    time, other, speedup = timings.median_ms("own"), timings.median_ms("reference"), timings.speedup("own", "reference")
    return Decoding(
        pictures=len(tokens),
        equal=False,
        psnr=loss.value,
        psnr_ci95=loss.ci95,
        psnr_worst=min(psnrs),
        ssim=likeness.value,
        ssim_ci95=likeness.ci95,
        size_bytes=sizes[0],
        reference_size_bytes=sizes[1],
        ms_per_picture=time.value,
        ms_per_picture_ci95=time.ci95,
        reference_ms_per_picture=other.value,
        speedup=speedup.value,
        speedup_ci95=speedup.ci95,
    )


def clamped(picture: NDArray[np.float32]) -> NDArray[np.float64]:
    """A picture (H, W, C) as it is seen.

    Raises:
        ValueError: it holds NaN.
    """
    if np.isnan(picture).any():
        raise ValueError("a decoded picture holds NaN")
    return picture.clip(0, 1).astype(np.float64)


def psnr(candidate: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Peak signal to noise ratio of pictures (H, W, C) in 0..1, dB."""
    error = float(np.square(candidate - reference).mean())
    return min(HIGHEST_PSNR, -10 * np.log10(error)) if error else HIGHEST_PSNR


def ssim(candidate: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Mean structural similarity of pictures (H, W, C) in 0..1; those below 11 pixels have a plain 3 x 3 window."""
    small = min(candidate.shape[:2]) < WINDOW
    return float(
        structural_similarity(
            candidate,
            reference,
            data_range=1.0,
            channel_axis=-1,
            win_size=SMALL_WINDOW if small else None,
            gaussian_weights=not small,
            sigma=SIGMA,
            use_sample_covariance=False,
        )
    )

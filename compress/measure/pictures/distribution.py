"""How far the pictures of one model are from those of another as sets, on features that need no download.

Letters: N, M pictures of each, D features, T tokens, V vocabulary.

Sets are compared, not pairs: what users get is a distribution. The same distances between two sets that the reference
drew with different seeds stand beside them, because all of these are above zero for equal models at any finite number
of pictures; the Frechet distance is biased by that number (Chong and Forsyth, arXiv 1911.07023), KID is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.core.store import file_hash
from compress.core.user_files import user_path
from compress.measure.measure import Measure
from compress.measure.pictures.features import INCEPTION, extractor
from compress.measure.quantity import Limit, quantity
from compress.measure.statistics import Estimate, percentile_interval

if TYPE_CHECKING:
    from compress.measure.subject import Subject

NEIGHBOURS = 5  # of precision, recall, density and coverage; Naeem et al. take 5
RESAMPLES = 100  # of the intervals: each needs distances of whole sets
Features = NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """Distances of a set of pictures from the reference's."""

    frechet: float = setting(doc="Frechet distance of Gaussians fitted to the features")
    frechet_ci95: tuple[float, float] = setting(doc="its bootstrap interval over pictures")
    kid: float = setting(doc="kernel distance (unbiased squared MMD, polynomial kernel of degree 3); may be below 0")
    kid_ci95: tuple[float, float] = setting(doc="its interval, by jackknife over pictures")
    precision: float = setting(doc="share of its pictures that lie among the reference's", low=0, high=1)
    recall: float = setting(doc="share of the reference's pictures that lie among its own", low=0, high=1)
    density: float = setting(doc="how many of the reference's neighbourhoods a picture lies in, over k; 1 is alike")
    coverage: float = setting(doc="share of the reference's neighbourhoods that hold a picture", low=0, high=1)
    unigram: float = setting(doc="Jensen-Shannon divergence of how often each token occurs, nats", low=0)
    bigram: float = setting(doc="the same of pairs of tokens, one right of or below the other", low=0)


@dataclass(frozen=True)
class Distribution(Measure):
    """An engine's pictures as a set against the reference's, and the reference's against its own of another seed."""

    name = "distribution"
    version = 8
    stage = "engines"
    verified = "asked"

    features: str = setting(doc="what the features are: SVC (decision values), VQ (of the image encoder), Inception")
    dimensions: int = setting(doc="features of a picture", low=1)
    pictures: int = setting(doc="pictures of each set", low=2)
    own: Distances = setting(doc="the engine's pictures, drawn with another seed than the reference's")
    floor: Distances = setting(doc="the reference's own pictures of that other seed")
    fd: float | None = quantity(
        None,
        doc="the engine's Frechet distance; comparable on the same features and number of pictures only",
        gate=Limit("fd", "most Frechet distance of the pictures drawn from the reference's, on the features at hand"),
    )
    fd_ci95: tuple[float, float] | None = setting(None, doc="its interval")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Where features are on hand."""
        return extractor(subject.reference) is not None

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The features, and what both draw."""
        found, weights = extractor(subject.reference), subject.given.inception
        assert found is not None
        return (found.name, weights and file_hash(user_path(weights))), *subject.keys, *subject.given.drawn

    @classmethod
    def run(cls, subject: Subject) -> Distribution:
        """Draw with both, and with the reference once more."""
        given, reference = subject.given, subject.reference
        found = extractor(reference)
        assert found is not None
        theirs, others = reference.drawn(), (subject.candidate.drawn(1), reference.drawn(1))
        held = found.features(theirs)
        grid = None if given.shape.scales else given.shape.grid
        own, floor = (distances(held, found.features(each), theirs, each, grid, given.seed) for each in others)
        return cls(found.name, held.shape[1], len(theirs), own, floor, fd=own.frechet, fd_ci95=own.frechet_ci95)

    @property
    def distance(self) -> str:
        """What the Frechet distance on these features is called; only Inception's is FID."""
        return "FID" if self.features == INCEPTION else f"FD-{self.features}"

    @property
    def thin(self) -> bool:
        """Whether there are too few pictures for as many features, so that the Frechet distance says little."""
        return self.pictures <= self.dimensions


def distances(
    reference: Features,
    other: Features,
    reference_tokens: NDArray[np.int64],
    other_tokens: NDArray[np.int64],
    grid: tuple[int, int] | None,
    seed: int = 0,
) -> Distances:
    """Every distance of one set of pictures from another: features (N, D) and (M, D), tokens (N, T) and (M, T).

    `grid` says how the tokens lie (rows, columns); without one, neighbours are those in a row.

    Raises:
        ValueError: fewer than 2 pictures, or other features.
    """
    if min(len(reference), len(other)) < 2 or reference.shape[1] != other.shape[1]:
        raise ValueError(f"features {reference.shape} and {other.shape}: need (N, D) and (M, D), 2 pictures at least")
    far, kernel = frechet(reference, other), kid(reference, other)
    near = neighbourhoods(reference, other)
    return Distances(
        far, frechet_interval(reference, other, far, seed), kernel.value, kernel.ci95, *near,
        unigram=jensen_shannon(reference_tokens, other_tokens),
        bigram=jensen_shannon(bigrams(reference_tokens, grid), bigrams(other_tokens, grid)),
    )  # fmt: skip


def frechet(first: Features, second: Features) -> float:
    """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of means and covariances (Heusel et al., arXiv 1706.08500).

    tr (C1 C2)^(1/2) is the sum of the singular values of A B^T, where C1 = A^T A and C2 = B^T B are centred features:
    no root of a matrix that is not symmetric is taken, and no covariance is made.
    """
    parts = []
    for each in (first, second):
        parts.append((each - each.mean(axis=0)) / np.sqrt(len(each) - 1))
    shift = first.mean(axis=0) - second.mean(axis=0)
    spread = sum(float(np.square(part).sum()) for part in parts)
    # Singular values of A B^T (N, M), by the smaller of R1 R2^T (D, D) where there are more pictures than features.
    roots: list[Features] = [
        np.asarray(np.linalg.qr(part, mode="r")) if part.shape[0] > part.shape[1] else part for part in parts
    ]
    common = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return float(shift @ shift) + spread - 2 * common


def frechet_interval(first: Features, second: Features, value: float, seed: int) -> tuple[float, float]:
    """A bootstrap interval over the pictures of both sets, moved so that the resampling's own bias is taken out.

    A resample holds doubles, which makes the distance larger; so the spread of the draws is used, around the value.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    draws = np.array(
        [
            frechet(*(each[generator.integers(0, len(each), len(each))] for each in (first, second)))
            for _ in range(RESAMPLES)
        ]
    )
    found = percentile_interval(value, draws - draws.mean() + value, min(len(first), len(second)))
    return max(found.low, 0.0), found.high


def kernel(first: Features, second: Features) -> NDArray[np.float64]:
    """(x y / D + 1)^3 for every pair (N, M) (Binkowski et al., arXiv 1801.01401)."""
    cubed: NDArray[np.float64] = (first @ second.T / first.shape[1] + 1) ** 3
    return cubed


def kid(first: Features, second: Features) -> Estimate:
    """The unbiased squared maximum mean discrepancy of two sets, with a jackknife interval over their pictures."""
    n, m = len(first), len(second)
    within, between, across = kernel(first, first), kernel(second, second), kernel(first, second)
    np.fill_diagonal(within, 0.0)
    np.fill_diagonal(between, 0.0)
    sums = within.sum(), between.sum(), across.sum()
    value = sums[0] / (n * (n - 1)) + sums[1] / (m * (m - 1)) - 2 * sums[2] / (n * m)
    variance = 0.0
    for side, (own, other, count, rest) in enumerate(((within, sums[1], n, m), (between, sums[0], m, n))):
        if count < 3:
            continue
        cross = across.sum(axis=1 - side)  # (count,) what each picture adds to the sum across
        left = (
            (own.sum() - 2 * own.sum(axis=1)) / ((count - 1) * (count - 2))
            + other / (rest * (rest - 1))
            - 2 * (sums[2] - cross) / ((count - 1) * rest)
        )
        variance += (count - 1) / count * float(np.square(left - left.mean()).sum())
    half = 1.96 * float(np.sqrt(variance))
    return Estimate(float(value), float(value - half), float(value + half))


def neighbourhoods(reference: Features, other: Features, k: int = NEIGHBOURS) -> tuple[float, float, float, float]:
    """Precision and recall (Kynkaanniemi et al., arXiv 1904.06991), density and coverage (Naeem et al., 2002.09797).

    A neighbourhood is the ball around a picture that reaches to the k-th nearest other of its own set.
    """
    k = min(k, len(reference) - 1, len(other) - 1)
    radius = [np.sort(apart(each, each), axis=1)[:, k] for each in (reference, other)]  # [:, 0] is the picture itself
    between = apart(reference, other)  # (N, M)
    inside = between <= radius[0][:, None]
    precision = float(inside.any(axis=0).mean())
    recall = float((between <= radius[1][None, :]).any(axis=1).mean())
    density = float(inside.sum(axis=0).mean() / k)
    coverage = float(inside.any(axis=1).mean())
    return precision, recall, density, coverage


def apart(first: Features, second: Features) -> NDArray[np.float64]:
    """Euclidean distances of every pair (N, M)."""
    squared = np.square(first).sum(1)[:, None] + np.square(second).sum(1)[None, :] - 2 * first @ second.T
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0))
    return distances


def bigrams(tokens: NDArray[np.int64], grid: tuple[int, int] | None) -> NDArray[np.int64]:
    """Pairs of neighbouring tokens (N, P) as one number each: to the right and, on a grid, below."""
    base = int(tokens.max()) + 1 if tokens.size else 1
    base = max(base, 2**20)  # the same for both sets, whatever tokens they hold
    if grid is None or grid[0] * grid[1] != tokens.shape[1]:
        return tokens[:, :-1] * base + tokens[:, 1:]
    cells = tokens.reshape(len(tokens), *grid)
    right = (cells[:, :, :-1] * base + cells[:, :, 1:]).reshape(len(tokens), -1)
    below = (cells[:, :-1] * base + cells[:, 1:]).reshape(len(tokens), -1)
    return np.concatenate([right, below + base * base], axis=1)


def jensen_shannon(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Jensen-Shannon divergence of the frequencies of whole numbers in two arrays, nats; ln 2 at most."""
    values, places = np.unique(np.concatenate([first.ravel(), second.ravel()]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(values)) for part in (places[: first.size], places[first.size :])]
    p, q = (count / count.sum() for count in counts)
    middle = (p + q) / 2

    def divergence(part: NDArray[np.float64]) -> float:
        held = part > 0
        return float((part[held] * np.log(part[held] / middle[held])).sum())

    return max((divergence(p) + divergence(q)) / 2, 0.0)

"""Requests of a server, drawn together: every picture is the one that its request alone would get.

Letters: n pictures of a request, P x C features of a text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .drawing import check_request, classes_of
from .heeded import sampler_of
from .noise import Noise, NoiseOfEach, check_seed
from .options import Sampling
from .sampling import Sampler
from .throughput import batch_size

if TYPE_CHECKING:
    from .engine import Engine

MOST_PICTURES = 1024  # of one request


@dataclass(frozen=True)
class Request:
    """Classes (n,), the seed of each picture (n,), features of texts (n, P, C), and how to sample.

    Picture i of a request has the noise of picture i of its seed, so with one seed they are those of `Engine.generate`.
    """

    labels: NDArray[np.int64]
    seeds: tuple[int, ...]
    sampler: Sampler
    features: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        engine: Engine,
        labels: Sequence[int | str] | NDArray[np.int64],
        seeds: Sequence[int],
        sampling: Sampling,
        features: NDArray[np.float32] | None = None,
    ) -> Request:
        """A request that can be drawn.

        Raises:
            ValueError: a label is not a class, a seed or a setting is out of range, or features do not fit.
        """
        classes = classes_of(labels, engine.shape)
        check_request(classes, engine.shape, features, None)
        if len(classes) > MOST_PICTURES:
            raise ValueError(f"{len(classes)} pictures: a request may ask for at most {MOST_PICTURES}")
        for seed in seeds:
            check_seed(seed)
        if len(seeds) != len(classes):
            raise ValueError(f"{len(seeds)} seeds for {len(classes)} pictures: give one for each")
        return cls(classes, tuple(seeds), sampler_of(engine.shape, engine.sampler, **sampling), features)

    @property
    def noise(self) -> tuple[Noise, ...]:
        """That of each picture."""
        return tuple(Noise(seed, 1, number) for number, seed in enumerate(self.seeds))


def answers(engine: Engine, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
    """Pictures (n, H, W, C) of each request; those that are sampled alike are drawn at once, as many as memory holds.

    Where logits depend on what else is in a call, each request is drawn by itself.
    """
    together: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        apart = engine.rows_depend(request.sampler.guided)
        together.setdefault(index if apart else request.sampler, []).append(index)
    made: dict[int, NDArray[np.uint8]] = {}
    for group in together.values():
        pictures = drawn(engine, [requests[index] for index in group])
        ends = np.cumsum([len(requests[index].labels) for index in group])
        made |= dict(zip(group, np.split(pictures, ends[:-1]), strict=True))
    return [made[index] for index in range(len(requests))]


def drawn(engine: Engine, requests: Sequence[Request], most: int = MOST_PICTURES) -> NDArray[np.uint8]:
    """Pictures (n, H, W, C) of all of these requests, which are sampled alike; at most so many are drawn at once."""
    sampler = requests[0].sampler
    labels = np.concatenate([each.labels for each in requests])
    noise = [each for request in requests for each in request.noise]
    texts = [each.features for each in requests if each.features is not None]
    features = np.concatenate(texts) if texts else None
    parts = []
    for rows in chunks(len(labels), min(most, batch_size(engine.shape, sampler, engine.cache_bytes))):
        text = None if features is None else features[rows]
        tokens = engine.draw_tokens(labels[rows], sampler=sampler, features=text, noise=NoiseOfEach(tuple(noise[rows])))
        parts.append(engine.decode_images(tokens))
    return np.concatenate(parts)


def chunks(count: int, size: int) -> Iterator[slice]:
    """So many pictures in batches."""
    return (slice(start, start + size) for start in range(0, count, size))

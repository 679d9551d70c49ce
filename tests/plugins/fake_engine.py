"""An engine without a model, for tests of what stands in front of engines."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime.errors import EngineError
from export.runtime.noise import NoiseOfEach
from export.runtime.sampling import Sampler
from export.runtime.serving import Request
from export.runtime.shape import Shape


@dataclass
class Fake:
    """An engine whose picture is its label and seed; drawing waits while `gate` is closed, and is written down.

    `begun` counts the batches that began; labels that are `broken` cannot be drawn.
    """

    depends: bool = False  # on what else is in a call
    shape: Shape = field(default_factory=lambda: Shape("causal", vocabulary=256, classes=10, grid=(1, 2)))
    sampler: Sampler = field(default_factory=Sampler)
    cache_bytes: int = 1
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    drawn: list[tuple[list[int], Sampler]] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)

    picture: tuple[int, int, int] = (1, 2, 1)

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(name="fake", family="none", target="tests")

    def rows_depend(self, guided: bool) -> bool:
        return self.depends

    def draw_tokens(self, labels: NDArray[np.int64], *, sampler: Sampler, features: None, noise: NoiseOfEach) -> Any:
        self.drawn.append((labels.tolist(), sampler))
        self.begun.release()
        assert self.gate.wait(10)
        if self.broken & set(labels.tolist()):
            raise EngineError("label is broken")
        return np.stack([labels, [part.seed % 256 for part in noise.parts]], axis=1)

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        return tokens.astype(np.uint8).reshape(-1, *self.picture)

    def generate(self, labels: NDArray[np.int64], features: None = None) -> NDArray[np.uint8]:
        return np.zeros((len(labels), *self.picture), dtype=np.uint8)

    def asked(self, label: int, seed: int = 0, count: int = 1, **sampling: Any) -> Request:
        return Request.of(self, [label] * count, [seed] * count, sampling)  # type: ignore[arg-type]

    @property
    def labels(self) -> list[list[int]]:
        return [labels for labels, _ in self.drawn]

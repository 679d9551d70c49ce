"""The runtime: load an engine folder and draw. NumPy and ONNX Runtime only; PyTorch is not needed to deploy.

Letters: N pictures, T tokens of a picture, O logits of a position, P x C features of a text, K key/value heads, L
length of a cache, d head width.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from . import profiling, scoring, whole_file
from .batching import BatchingQueue
from .devices import Device
from .drawing import Drawer, Known, draw, score_stepwise
from .engine_files import Seal
from .errors import EngineError
from .feeds import feeds_of_all
from .graph_drawers import ComparingDrawer, GraphDrawer
from .graphs import run_once
from .loaded import Loaded
from .loops import FedLoop, Loop
from .manifest import Manifest
from .noise import NoiseOfEach
from .options import Sampling
from .profiling import Event
from .row_probe import logits_depend
from .sampling import Sampler
from .serving import Request
from .sparing import Opened, SparingDrawer
from .throughput import draw_pictures

__all__ = ["Engine", "EngineError", "Manifest", "Sampler", "run_once"]

DECODE_PIXELS = 2**16  # decoded at once: a picture of 256x256 takes 0.6 GB inside a VQ decoder, four 2 GB and as long


class Engine(Loaded):
    """A loaded engine folder.

    Any number of threads may use one engine at once: each drawing has buffers of its own, all share the weights, and
    every picture is the one that is drawn alone. Only drawings on TensorRT or another device wait for each other. A
    process that was forked off loads its own engine.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        seals: Mapping[str, Seal],
        threads: int,
        device: Device | None = None,
        *,
        require_plan: bool = False,
    ) -> None:
        super().__init__(folder, manifest, seals, threads, device, require_plan=require_plan)
        # Its thread holds the queue as long as there is something to draw; a circle, if this held it too.
        self.queue: Callable[[], BatchingQueue | None] = lambda: None
        self.opening_queue = Lock()
        self.probed: dict[bool, bool] = {}

    def generate(
        self,
        labels: Sequence[int | str] | NDArray[np.int64],
        seed: int = 0,
        *,
        features: NDArray[np.float32] | None = None,
        batch: int = 0,
        report: Callable[[int, int], None] = lambda done, count: None,
        **sampling: Unpack[Sampling],
    ) -> NDArray[np.uint8]:
        """New pictures (N, H, W, C) of these classes; what is not given of the sampling is the engine's own.

        They are drawn `batch` at a time, 0 for as many as the free memory holds; `report` is told how many are done. A
        model of texts takes their features (N, P, C), and 0 for each label.

        Raises:
            ValueError: a label is not a class, or a setting is out of range.
        """
        return draw_pictures(self, labels, seed, features=features, batch=batch, report=report, **sampling)

    def submit(
        self,
        labels: int | str | Sequence[int | str] | NDArray[np.int64],
        seed: int = 0,
        *,
        features: NDArray[np.float32] | None = None,
        **sampling: Unpack[Sampling],
    ) -> Future[NDArray[np.uint8]]:
        """The pictures (N, H, W, C) that `generate` makes of this, drawn soon in another thread; one label is N = 1.

        What is sampled alike and waits at the same time is drawn together. A future that is cancelled before its
        drawing begins is not drawn. `batching.BatchingQueue` is the same with a batch, a deadline and a capacity of
        your choice, and can be closed.

        Raises:
            ValueError: a label is not a class, or a setting is out of range.
            QueueFullError: too many pictures wait.
        """
        wanted = [labels] if isinstance(labels, (int, str, np.integer)) else labels
        request = Request.of(self, wanted, [seed] * len(wanted), sampling, features)
        with self.opening_queue:
            if (queue := self.queue()) is None:
                queue = BatchingQueue(self)
                self.queue = weakref.ref(queue)
        return queue.submit(request)

    def rows_depend(self, guided: bool) -> bool:
        """Whether the logits of a picture depend on what else is in a call, by the kernels of this machine."""
        if self.manifest.call_scaled:
            return True
        if guided not in self.probed:
            self.probed[guided] = logits_depend(self, guided)
        return self.probed[guided]

    def draw_tokens(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
        known: Known | None = None,
        first: int = 0,
        on_step: Callable[[], None] | None = None,
        noise: NoiseOfEach | None = None,
    ) -> NDArray[np.int64]:
        """Tokens (N, T) of new pictures of these classes (N,), all at once; `known` ones stay where they are.

        `first` is the number of the first picture among all of this seed. `on_step` is called after each step. `noise`
        stands in place of seed and number where pictures of several seeds are drawn.
        """
        sampler = self.sampler.admitted(sampler)
        with ExitStack() as stack:
            drawer: Drawer
            if sampler.spares_rows and self.on_host and not self.manifest.fixed_batch:
                drawer = SparingDrawer(partial(self._opened, stack, sampler), self.shape, len(labels))
            else:
                loop = stack.enter_context(self._lent(len(labels) * (2 if sampler.guided else 1)))
                drawer = self._drawer(loop, sampler)
            return draw(drawer, labels, self.shape, sampler, seed, features, known, first, on_step, noise)

    def _opened(self, stack: ExitStack, sampler: Sampler, rows: int) -> Opened:
        """A loop for so many rows until the stack is left, and what draws with it."""
        loop = stack.enter_context(self._lent(rows))
        assert isinstance(loop, (Loop, FedLoop))
        return loop, self._drawer(loop, sampler)

    def compare_choices(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None, seed: int = 0
    ) -> tuple[int, int]:
        """How many tokens the graph chooses otherwise than the sampler outside, from the same logits, and of how many.

        Both are 0 where the graph only makes logits.
        """
        with self._lent(len(labels) * (2 if self.sampler.guided else 1)) as loop:
            if not isinstance(self._drawer(loop, self.sampler), GraphDrawer):
                return 0, 0
            assert isinstance(loop, (Loop, FedLoop))
            drawer = ComparingDrawer(loop, self.sampler, self.shape)
            draw(drawer, labels, self.shape, self.sampler, seed, features)
            return drawer.apart, drawer.tokens

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C) of tokens (N, T)."""
        size = max(1, DECODE_PIXELS // (self.picture[0] * self.picture[1]))
        parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        with self._running("image_decoder"):
            if (graphs := self._built("image_decoder")) is not None:
                return np.concatenate([graphs.run("image_decoder", "tokens", "images", part) for part in parts])
            return np.concatenate([self.image_decoder.run(["images"], {"tokens": part})[0] for part in parts])

    def draw_in_one(
        self, labels: NDArray[np.int64], seed: int = 0, features: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Tokens (N, T) and pictures (N, H, W, C) from the one file that does all, as the engine's own sampler draws.

        Raises:
            EngineError: the folder has no such file.
            ValueError: what cannot be drawn, as `generate` says.
        """
        return whole_file.draw(self, labels, seed, features)

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, H, W, C).

        Raises:
            EngineError: the checkpoint had no image encoder.
        """
        if (graphs := self._built("image_encoder")) is not None:
            with self._running("image_encoder"):
                return graphs.run("image_encoder", "images", "tokens", images)
        encoder = self.graphs.opened("image_encoder", "holds no image encoder; its checkpoint only decodes")
        with self._running("image_encoder"):
            tokens: NDArray[np.int64] = encoder.run(["tokens"], {"images": images})[0]
            return tokens

    def score(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...): all tokens in one call, where the graph can."""
        return scoring.score(self, inputs, features)

    def caches(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Keys and values (N, K, L, d) behind all of the inputs (N, 1 + ...), by the names `0.key`, `0.value`, ..."""
        return scoring.caches(self, inputs, features)

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits (N, T, O) step by step as when drawing, through the KV cache where there is one."""
        with self._lent(len(inputs)) as loop:
            return score_stepwise(loop, inputs, self.shape, features)

    def run_variant(
        self,
        path: Path,
        outputs: Sequence[str],
        inputs: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        stepwise: bool = False,
    ) -> list[NDArray[Any]]:
        """Outputs of another version of the decode graph for inputs (N, 1 + ...), in one call or step by step."""
        return scoring.run_variant(self, path, outputs, inputs, features, stepwise=stepwise)

    def profile(self, count: int = 1) -> list[Event]:
        """Time of every operator while drawing this many pictures, from ONNX Runtime's own profiler."""
        return profiling.of_drawing(self, count)

    def profile_image_decoder(self, count: int = 1) -> list[Event]:
        """The same while decoding this many pictures."""
        return profiling.of_image_decoder(self, count)

    def feeds(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None) -> dict[str, Any]:
        """Feeds of one call for everything (N, 1 + ...) behind an empty cache."""
        return feeds_of_all(inputs, features, self.manifest, self.graphs.sessions)

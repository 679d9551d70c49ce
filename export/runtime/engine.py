"""The runtime: load an engine folder and draw. NumPy and ONNX Runtime only; PyTorch is not needed to deploy.

Letters: N pictures, T tokens of a picture, O logits of a position, P x C features of a text, K key/value heads, L
length of a cache, d head width.
"""

from __future__ import annotations

import os
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Unpack

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .batching import BatchingQueue
from .choosing import UNSOUND, unsound
from .deployment import BuiltGraphs, BuiltPlan, ChoosingRunner, Deployment
from .deployment import find as deployment_of
from .devices import Device, device_of
from .drawing import (
    Drawer,
    Known,
    LogitsDrawer,
    Runner,
    check_request,
    classes_of,
    conditions,
    draw,
    opening,
    score_stepwise,
)
from .engine_files import PLANS, Seal
from .errors import EngineError, PlanWarning, RunnerMissingError, first_line
from .graph_drawers import ComparingDrawer, GraphDrawer
from .graphs import Graphs
from .lending import Lending
from .loops import (
    NOTHING_TO_CHOOSE,
    FedLoop,
    Loop,
    Parts,
    Sessions,
    choice_feeds,
    filled_up,
    make_loop,
    text_feeds,
)
from .manifest import FILE, Manifest, file_hash
from .noise import NoiseOfEach, check_seed
from .options import Sampling
from .processor import ProcessorWarning, products_saturate
from .profiling import Event, events_of
from .providers import CPU
from .row_probe import logits_depend
from .sampling import Sampler, check_whole
from .serving import Request
from .shape import Shape, Shaped
from .signature import POSITION, POSITIONS, SEQLENS, TOTAL, DecodeSignature
from .sparing import Opened, SparingDrawer
from .throughput import draw_pictures

__all__ = ["Engine", "EngineError", "Manifest", "Sampler"]

SCORE_ROWS = 32  # rows scored at once at most; ONNX Runtime keeps the memory that a prefill once took
SCORE_LOGITS = 2**26  # and logits, 256 MB
STEPWISE_ROWS = 8  # rows that share a call where logits depend on all of it
FOR_VNNI = (
    "made for x86 processors with VNNI (cpu: vnni, or reduce_range: false), which this one lacks; slower exact kernels "
    "keep its pictures right; make it with  cpu: any  to be fast here"
)
DECODE_PIXELS = 2**16  # decoded at once: a picture of 256x256 takes 0.6 GB inside a VQ decoder, four 2 GB and as long
MOST_THREADS = 1024


class Engine(Shaped):
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
        self.folder, self.manifest, self.seals, self.threads = folder, manifest, seals, threads
        self.asked, self.device = device, device or Device()
        # Not every provider runs a session for several threads at once.
        self.alone: AbstractContextManager[object] = nullcontext() if self.device.door is None else RLock()
        self.process = os.getpid()
        self.signature = DecodeSignature.of(manifest)
        self.deployment = deployment_of(manifest.target) or Deployment()
        self.graphs = Graphs(folder, manifest, seals, threads, self.device)
        self.plan = self._open_plan(require_plan)
        if self.plan is not None:  # which has the same weights: no graph is opened
            self.lending = Lending(self.plan.loop)
        else:  # without this engine in it: a circle would keep its weights until the next garbage collection
            self.lending = Lending(partial(new_loop, self.graphs.sessions, manifest))
        # Its thread holds the queue as long as there is something to draw; a circle again, if this held it too.
        self.queue: Callable[[], BatchingQueue | None] = lambda: None
        self.opening_queue = Lock()
        self.probed: dict[bool, bool] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        threads: int = 0,
        *,
        device: str | None = None,
        provider_options: Mapping[str, str] | None = None,
        require_plan: bool = False,
    ) -> Engine:
        """Open an engine folder on `threads` CPU threads (0: ONNX Runtime's choice), every file checked by its hash.

        `device` is where ONNX Runtime runs it, one of `devices.NAMES`, with these `provider_options` beside those of
        the manifest. None: a plan runs where there is one and this machine can, elsewhere ONNX Runtime on the CPU, with
        a warning, or with `require_plan` not at all.

        Raises:
            EngineError: a file is missing, damaged, or not something ONNX Runtime can run; the file is named. Or the
            device is not here, or would leave operators of a step to the CPU. Or the engine is for a target whose
            engines are built, and has no plan that runs here though `require_plan` is set.
            ValueError: there cannot be so many threads, there is no such device, or both it and a plan are asked for.
        """
        check_whole("threads", threads, 0, MOST_THREADS)
        folder = Path(path)
        manifest, seals = Manifest.read(folder)
        if manifest.cpu == "vnni" and products_saturate():
            warnings.warn(f"{folder}: {FOR_VNNI}", ProcessorWarning, stacklevel=2)
        if device is None and not provider_options:
            return cls(folder, manifest, seals, threads, require_plan=require_plan)
        if require_plan:
            raise ValueError(
                "require_plan: on a device that is named ONNX Runtime runs an engine; leave one of both out"
            )
        asked = device_of(device, manifest.provider_options, provider_options)
        if asked.captures and manifest.cache not in ("shared", "static"):
            raise EngineError(
                f"{folder}: no step of it can be captured as a graph, because its cache is {manifest.cache!r} and "
                f"sizes change; leave the provider option out, or fuse 'attention' for the target onnxruntime"
            )
        return cls(folder, manifest, seals, threads, asked)

    def run_variant(
        self,
        path: Path,
        outputs: Sequence[str],
        inputs: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        stepwise: bool = False,
    ) -> list[NDArray[Any]]:
        """Outputs of another version of the decode graph for inputs (N, 1 + ...).

        All tokens are read in one call, or step by step through the cache, as a next-scale model always runs.
        """
        session = self.graphs.open("decode", path=path)
        if stepwise or self.shape.drawing.scaled:
            loop = make_loop(replace(self.graphs.sessions, decode=session), self.manifest, len(inputs))
            assert isinstance(loop, Loop)
            loop.keep(list(dict.fromkeys(outputs)))
            score_stepwise(loop, inputs, self.shape, features)
            return [loop.whole(name) for name in outputs]
        taken, feeds = {each.name for each in session.get_inputs()}, self.feeds(inputs, features)
        wanted = list(dict.fromkeys(name for name in outputs if name not in feeds))
        made = replace(self.graphs.sessions, decode=session).run(
            wanted, {name: value for name, value in feeds.items() if name in taken}
        )
        found = feeds | dict(zip(wanted, made, strict=True))
        return [found[name] for name in outputs]

    def _open_plan(self, required: bool) -> BuiltPlan | None:
        """What the target's builder made, where this machine can run it; elsewhere ONNX Runtime runs the same graphs.

        Raises:
            EngineError: it cannot, though that is `required`; or a plan is damaged.
        """
        opens = self.deployment.opens
        if opens is None or self.asked is not None:
            return None
        if "plan" not in self.manifest.files:
            if required:
                raise EngineError(f"{self.folder}: holds no plan; build one with  build-engine")
            return None
        try:
            plan = opens(self.folder / self.manifest.files["plan"], self.manifest)
        except RunnerMissingError as error:
            if required:
                raise EngineError(f"{self.folder}: {error}") from error
            warnings.warn(f"{self.folder}: {error}; ONNX Runtime draws instead", PlanWarning, stacklevel=3)
            return None
        for role in PLANS.values():
            if role in self.seals:
                self.seals[role].check()
        return plan

    def _built(self, graph: str) -> BuiltGraphs | None:
        """The plans, where one of them is of this graph."""
        plan = self.plan
        return plan if isinstance(plan, BuiltGraphs) and plan.runs(graph) else None

    @property
    def image_decoder(self) -> onnxruntime.InferenceSession:
        """The graph of the image decoder, in ONNX Runtime."""
        return self.graphs.image_decoder

    @property
    def sha256(self) -> str:
        """The hash of its manifest, which has that of each of its files."""
        return file_hash(self.folder / FILE)

    @property
    def runtime(self) -> str:
        """What runs the decode graph."""
        if self.plan is not None:
            return self.manifest.target
        return "onnxruntime" if self.device.door is None else f"onnxruntime {self.device.name}"

    @property
    def runs_as_deployed(self) -> bool:
        """Whether that is the runtime the engine was exported for, so that its speed means something."""
        return self.deployment.opens is None or self.plan is not None

    @property
    def sampler(self) -> Sampler:
        """How this engine draws unless told otherwise."""
        return self.manifest.sampler

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""
        return self.manifest.shape

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and colour channels of a picture."""
        if (graphs := self._built("image_decoder")) is not None:
            return tuple(graphs.sizes("image_decoder", "images")[1:])  # type: ignore[return-value]
        return tuple(self.image_decoder.get_outputs()[0].shape[1:])

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

    @property
    def cache_bytes(self) -> int:
        """What keys and values of one row take, and what is computed of its class before the steps."""
        before = self.plan if isinstance(self.plan, BuiltGraphs) else self.graphs.sessions
        return self.signature.cache_bytes(self.shape.reach) + 4 * before.numbers_of_a_row

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

    @property
    def on_host(self) -> bool:
        """Whether caches lie in the memory of the host."""
        return self.plan is None and self.device.door is None

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
        classes = classes_of(labels, self.shape)
        check_request(classes, self.shape, features, None)
        check_seed(seed)
        whole = self.graphs.opened("generate", "has no single file; make it with  engine: {single_file: true}")
        feeds: dict[str, Any] = {"labels": classes, "seed": np.array(seed, dtype=np.uint64).view(np.int64)}
        if features is not None:
            feeds["features"] = features
        with self._running("generate"):
            tokens, images = whole.run(["tokens", "images"], feeds)
        if (tokens == UNSOUND).any():
            raise unsound("NaN")
        return tokens, images

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
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...): all tokens in one call, where the graph can.

        A plan takes one token a call, and a next-scale graph one scale. Where logits depend on what else is in a call,
        the calls are those of drawing a few pictures.
        """
        if self.manifest.call_scaled and self.shape.drawing.sequential:
            chunks = [slice(start, start + STEPWISE_ROWS) for start in range(0, len(inputs), STEPWISE_ROWS)]
            texts = [None if features is None else features[rows] for rows in chunks]
            parts = [self.score_stepwise(inputs[rows], text) for rows, text in zip(chunks, texts, strict=True)]
            return np.concatenate(parts)
        if self.plan is not None or self.shape.drawing.scaled:
            return self.score_stepwise(inputs, features)
        numbers = self.length * self.shape.predicted + self.graphs.sessions.numbers_of_a_row
        size = self.manifest.fixed_batch or max(1, min(SCORE_ROWS, SCORE_LOGITS // numbers))
        logits = []
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            padded = filled_up(inputs[rows], self.manifest.fixed_batch or 1)
            text = None if features is None else filled_up(features[rows], self.manifest.fixed_batch or 1)
            with self._running("decode"):
                made = self.graphs.sessions.run(["logits"], self.feeds(padded, text))[0]
            logits.append(made[: len(inputs[rows])])
        whole = np.concatenate(logits)
        return whole[:, self.shape.prefix - 1 :] if self.shape.drawing.sequential else whole

    def caches(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Keys and values (N, K, L, d) behind all of the inputs (N, 1 + ...), by the names `0.key`, `0.value`, ..."""
        names = list(self.signature.caches)
        outputs = [f"present.{name}" for name in names]
        with self._running("decode"):
            return dict(zip(names, self.graphs.sessions.run(outputs, self.feeds(inputs, features)), strict=True))

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits (N, T, O) step by step as when drawing, through the KV cache where there is one."""
        with self._lent(len(inputs)) as loop:
            return score_stepwise(loop, inputs, self.shape, features)

    def profile(self, count: int = 1) -> list[Event]:
        """Time of every operator while drawing this many pictures, from ONNX Runtime's own profiler."""
        labels, features = conditions(self.shape, count)
        with tempfile.TemporaryDirectory() as room:
            watched = replace(self.graphs.sessions, decode=self.graphs.open("decode", str(Path(room) / "profile")))
            loop = new_loop(watched, self.manifest, count * (2 if self.sampler.guided else 1))
            draw(self._drawer(loop, self.sampler), labels, self.shape, self.sampler, 0, features)
            return events_of(watched.decode)

    def profile_image_decoder(self, count: int = 1) -> list[Event]:
        """The same while decoding this many pictures."""
        with tempfile.TemporaryDirectory() as room:
            session = self.graphs.open("image_decoder", str(Path(room) / "profile"))
            session.run(["images"], {"tokens": np.zeros((count, self.length), dtype=np.int64)})
            return events_of(session)

    @contextmanager
    def _lent(self, rows: int) -> Iterator[Runner]:
        """A loop for one drawing of this many rows."""
        alone = nullcontext() if self.plan is None else self.plan.lock
        with self._running("decode"), alone, self.lending.lent(rows) as loop:
            if self.manifest.sampling and isinstance(loop, (Loop, FedLoop)):
                if not self.device.captures:  # buffers of another size end a captured graph
                    loop.take(NOTHING_TO_CHOOSE)  # what was drawn last had other positions
                loop.choosing(False)
            yield loop

    def _loop(self, rows: int) -> Runner:
        """A new loop."""
        return self.lending.make(rows)

    def _drawer(self, loop: Runner, sampler: Sampler) -> Drawer:
        """What draws with a loop: the graph itself where it chooses tokens as the sampler wants."""
        inside = self.manifest.sampling and self.sampler.serves(sampler)
        if isinstance(loop, ChoosingRunner):
            return loop.drawer()
        return GraphDrawer(loop) if inside and isinstance(loop, (Loop, FedLoop)) else LogitsDrawer(loop, self.shape)

    @contextmanager
    def _running(self, file: str) -> Iterator[None]:
        """Run one of the graphs, with one line for what ONNX Runtime has to say against it.

        Raises:
            EngineError: the graph cannot be run, or this process was forked off the one that loaded the engine.
        """
        if (self.threads != 1 or self.plan is not None) and os.getpid() != self.process:
            raise EngineError(
                f"{self.folder}: was loaded by another process, whose threads did not come along when this one was "
                f"forked off; load the engine in each process"
            )
        try:
            with self.alone:
                yield
        except Exception as error:
            if out_of_memory(error):
                raise EngineError(
                    f"{self.folder}: the device has no room for so many pictures at once; draw fewer "
                    f"({first_line(error)})"
                ) from error
            if not from_runtime(error):
                raise
            raise EngineError(
                f"{self.folder / self.manifest.files[file]}: ONNX Runtime cannot run it ({first_line(error)})"
            ) from error

    def feeds(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None) -> dict[str, Any]:
        """Feeds of one call for everything (N, 1 + ...) behind an empty cache."""
        shape, count = self.shape, len(inputs)
        labels, tokens = inputs[:, 0] - shape.first_class, inputs[:, 1:]
        if shape.drawing.sequential and (features is None or self.manifest.cache == "static"):
            tokens = opening(shape, labels, tokens)
        feeds: dict[str, Any] = {"tokens": np.ascontiguousarray(tokens)}
        if self.manifest.sampling:
            feeds |= choice_feeds(NOTHING_TO_CHOOSE)
        if shape.labelled:
            feeds["labels"] = labels
        if features is not None:
            feeds |= text_feeds(features)
        taken = self.graphs.sessions.taken
        begun = self.graphs.sessions.begun(feeds)
        feeds = {name: value for name, value in feeds.items() if name in taken} | begun
        if POSITIONS in taken:
            feeds[POSITIONS] = np.arange(shape.length)
        feeds |= {f"past.{name}": port.zeros(batch=count, past=0) for name, port in self.signature.caches.items()}
        length = tokens.shape[1]
        if self.manifest.cache == "shared":
            feeds[SEQLENS] = np.full(count, length - 1, dtype=np.int32)
            feeds[TOTAL] = np.array(length, dtype=np.int32)
        elif self.manifest.cache == "static":
            feeds[POSITION] = np.array(0, dtype=np.int64)
        return feeds


def new_loop(sessions: Sessions, manifest: Manifest, rows: int) -> Runner:
    """A loop of ONNX Runtime for this many rows."""
    return (Parts if manifest.fixed_batch else make_loop)(sessions, manifest, rows)


def from_runtime(error: Exception) -> bool:
    """Whether ONNX Runtime raised it; of a failed step with bound buffers it makes a RuntimeError.

    An error that quotes a node whose name is not UTF-8 arrives as a UnicodeDecodeError.
    """
    bound = isinstance(error, RuntimeError) and str(error).startswith("Error in execution")
    return bound or isinstance(error, UnicodeDecodeError) or type(error).__module__.startswith("onnxruntime.")


def out_of_memory(error: Exception) -> bool:
    """Whether PyTorch found no room on a device."""
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")


def run_once(path: Path, output: str, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One output of a graph on disk."""
    found: NDArray[Any] = onnxruntime.InferenceSession(str(path), providers=[CPU]).run([output], feeds)[0]
    return found

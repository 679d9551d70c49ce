"""A folder's graphs or plans, opened on one device, with loops that are lent to one drawing at a time.

Letters: N pictures.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Self

import onnxruntime

from .deployment import BuiltGraphs, ChoosingRunner, Deployment
from .deployment import find as deployment_of
from .devices import Device, device_of
from .drawing import Drawer, LogitsDrawer, Runner
from .engine_files import Seal
from .errors import EngineError
from .faults import faults_said
from .feeds import NOTHING_TO_CHOOSE
from .graph_drawers import GraphDrawer
from .graphs import Graphs
from .lending import Lending
from .loops import FedLoop, Loop, new_loop
from .manifest import FILE, Manifest, file_hash
from .plan_opening import opened_plan
from .processor import ProcessorWarning, products_saturate
from .sampling import Sampler, check_whole
from .shape import Shape, Shaped
from .signature import DecodeSignature

FOR_VNNI = (
    "made for x86 processors with VNNI (cpu: vnni, or reduce_range: false), which this one lacks; slower exact kernels "
    "keep its pictures right; make it with  cpu: any  to be fast here"
)
MOST_THREADS = 1024


class Loaded(Shaped):
    """A loaded engine folder: what it is, and what runs it."""

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
        self.plan = None
        if device is None:
            self.plan = opened_plan(self.deployment, folder, manifest, seals, required=require_plan)
        if self.plan is not None:  # which has the same weights: no graph is opened
            self.lending = Lending(self.plan.loop)
        else:  # without this engine in it: a circle would keep its weights until the next garbage collection
            self.lending = Lending(partial(new_loop, self.graphs.sessions, manifest))

    @classmethod
    def load(
        cls,
        path: str | Path,
        threads: int = 0,
        *,
        device: str | None = None,
        provider_options: Mapping[str, str] | None = None,
        require_plan: bool = False,
    ) -> Self:
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

    @property
    def cache_bytes(self) -> int:
        """What keys and values of one row take, and what is computed of its class before the steps."""
        before = self.plan if isinstance(self.plan, BuiltGraphs) else self.graphs.sessions
        return self.signature.cache_bytes(self.shape.reach) + 4 * before.numbers_of_a_row

    @property
    def on_host(self) -> bool:
        """Whether caches lie in the memory of the host."""
        return self.plan is None and self.device.door is None

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
        with faults_said(self.folder, self.manifest.files[file]), self.alone:
            yield

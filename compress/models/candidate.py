"""Anything that can be scored and drawn with: a checkpoint, a stored artifact, or an engine folder.

Letters: N pictures, T tokens of a picture, O logits of a position.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, parse
from compress.core.strict_yaml import read_yaml
from compress.core.user_files import user_path
from compress.models import families, zoo

if TYPE_CHECKING:
    from compress.models.adopted import AdoptedModel
    from compress.models.image_model import ImageModel
    from export.runtime.drawing import Known
    from export.runtime.engine import Engine
    from export.runtime.sampling import Sampler
    from export.runtime.shape import Shape

MANIFEST = "manifest.json"


class Candidate(Protocol):
    """What ImageModel and Engine have in common."""

    @property
    def sampler(self) -> Sampler:
        """How it draws unless told otherwise."""

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and colour channels of a picture."""

    @property
    def vocabulary(self) -> int:
        """Image tokens."""

    @property
    def classes(self) -> int:
        """Classes, without the null class."""

    @property
    def length(self) -> int:
        """Tokens of a picture."""

    @property
    def cache_bytes(self) -> int:
        """What keys and values of one row take."""

    def score(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...)."""

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits step by step as when drawing."""

    def draw_tokens(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
        known: Known | None = None,
        first: int = 0,
        on_step: Callable[[], None] | None = None,
    ) -> NDArray[np.int64]:
        """Tokens (N, T) of new pictures of these classes (N,); `known` ones stay where they are.

        `first` is the number of the first picture among all of this seed. `on_step` is called after each step.
        """

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, H, W, C)."""

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, h, w, C) of tokens (N, T)."""


def open_engine(
    folder: Path,
    threads: int,
    device: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    *,
    require_plan: bool = False,
) -> Engine:
    """The engine in a folder, on a device of ONNX Runtime (`export.runtime.devices`), or with its plan alone.

    One in floats that the processor has no kernels for is emulated in float32.

    Raises:
        InputError: the folder is damaged or not an engine, or the device is not here or cannot run it, or the plan that
            is required does not run here.
    """
    from export.runtime.engine import Engine, EngineError
    from export.runtime.errors import NoKernelsError

    try:
        return Engine.load(
            folder, threads=threads, device=device, provider_options=provider_options, require_plan=require_plan
        )
    except NoKernelsError as error:
        if device is not None:
            raise InputError(str(error)) from error
        return open_emulated(folder, threads)
    except (EngineError, ValueError) as error:
        raise InputError(str(error)) from error


def open_emulated(folder: Path, threads: int) -> Engine:
    """An engine that rounds to the floats of the one in a folder, wherever that one would, and computes in float32."""
    from export.graph.onnx_model import OnnxModel
    from export.rewrites.float_emulation import emulated
    from export.runtime.engine import Engine

    room = tempfile.TemporaryDirectory()
    emulated(OnnxModel.load(folder)).save(Path(room.name))
    engine = Engine.load(room.name, threads=threads)
    weakref.finalize(engine, room.cleanup)
    return engine


def on_device(
    names: Sequence[str],
    threads: int,
    device: str | None,
    options: Sequence[str],
    *,
    require_plan: bool = False,
    engines_only: bool = False,
) -> list[str | Candidate]:
    """The engines among these, opened on a device with options like ``use_tf32=0``, and the others as they are.

    With `require_plan` those for a target whose engines are built have to run their plans.

    Raises:
        InputError: there is no engine among them, a model that is none with `engines_only`, or one cannot be opened.
    """
    from export.runtime.devices import parsed_options

    if device is None and not options and not require_plan:
        return [*names]
    if require_plan and (device is not None or options):
        raise InputError("--require-plan: on a --device that is named ONNX Runtime runs engines; leave one of both out")
    try:
        given = parsed_options(options)
    except ValueError as error:
        raise InputError(str(error)) from error
    engines = [name for name in names if is_engine(name)]
    others = [name for name in names if name not in engines]
    if not require_plan and (not engines or (engines_only and others)):
        raise InputError(f"--device: {others[0]} is no engine; PyTorch runs it, on the CPU")
    return [
        open_engine(user_path(name), threads, device, given, require_plan=require_plan) if name in engines else name
        for name in names
    ]


def is_engine(name: str) -> bool:
    """Whether a name is that of an engine's folder."""
    return name not in zoo.names() and (user_path(name) / MANIFEST).exists()


def open_candidate(given: str | Path | Candidate, threads: int = 0) -> Candidate:
    """The shipped model of this name, what a folder or file holds, or what is already open.

    Raises:
        InputError: it is none of them.
    """
    if not isinstance(given, (str, Path)):
        return given
    name = str(given)
    return open_engine(user_path(name), threads) if is_engine(name) else open_model(name, threads)


def name_of(given: str | Path | Candidate) -> str:
    """What a report calls a candidate: the name it was opened by, or its own."""
    if isinstance(given, (str, Path)):
        return str(given)
    return str(getattr(given, "name", None) or getattr(given, "folder", None) or type(given).__name__)


def identity(candidate: Candidate, name: str) -> str:
    """The hash of an engine's manifest; of any other model the name that it was opened by."""
    return str(getattr(candidate, "sha256", name))


def open_model(name: str, threads: int = 0) -> ImageModel | AdoptedModel:
    """The shipped model of this name, a checkpoint's, or the model of a recipe; an ONNX graph where it is one.

    Raises:
        InputError: it is none of them.
    """
    return load_model(source_of(name), name, threads)


def load_model(source: families.Source, name: str, threads: int = 0) -> ImageModel | AdoptedModel:
    """The model of a source that a user calls `name`.

    Raises:
        InputError: it cannot be read.
    """
    if families.graph_family(source, families.checked_path(source, name)):
        graph = families.load_graph(source, name)
        graph.threads = threads
        return graph
    return families.load(source, name)


def source_of(name: str) -> families.Source:
    """Where the model comes from: a recipe says it in its `model`, anything else is the checkpoint itself."""
    path = user_path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return families.Source(name)
    value = read_yaml(path)
    if not isinstance(value, dict) or "model" not in value:
        raise InputError(f"{name}: says no model; write  model: {{checkpoint: PATH}}")
    return parse(families.Source, value["model"], f"{name}: model")


def pixels_of(candidate: Candidate) -> Callable[[NDArray[np.int64]], NDArray[np.float32]] | None:
    """Pictures (N, H, W, C) of tokens (N, T), before they are clamped and rounded; None where they cannot be had."""
    if (session := getattr(candidate, "image_decoder", None)) is not None:
        return lambda tokens: session.run(["pixels"], {"tokens": tokens})[0]
    if (tokenizer := getattr(candidate, "tokenizer", None)) is None:
        return None
    import torch

    decoder = tokenizer.decoder().eval()

    def decode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            pixels: NDArray[np.float32] = decoder(torch.from_numpy(tokens))[1].numpy()
        return pixels

    return decode


def can_encode(candidate: Candidate) -> bool:
    """Whether it makes tokens of pictures; the checkpoints of some tokenizers only decode."""
    engine = getattr(candidate, "engine", candidate)  # of a graph
    if hasattr(engine, "manifest"):
        return "image_encoder" in engine.manifest.files
    tokenizer = getattr(candidate, "tokenizer", None)
    return tokenizer is not None and tokenizer.encoder() is not None


def decoder_bytes(candidate: Candidate) -> int:
    """Bytes of its image decoder: of an engine's file, or of the weights in PyTorch."""
    if (folder := getattr(candidate, "folder", None)) is not None:
        name = candidate.manifest.files["image_decoder"]  # type: ignore[attr-defined]
        return sum(path.stat().st_size for path in folder.glob(f"{name}*"))
    return sum(each.numel() * each.element_size() for each in candidate.tokenizer.decoder().state_dict().values())  # type: ignore[attr-defined]

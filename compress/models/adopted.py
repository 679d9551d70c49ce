"""A model that is an ONNX graph from the beginning: how a foreign decoder writes pictures, and drawing with it.

Letters: N pictures, T tokens of a picture, O logits of a position.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, parse, setting, shown
from compress.core.strict_json import read_json
from compress.core.user_files import user_path
from export.graph.rounding import rounds_inputs
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, Shaped

if TYPE_CHECKING:
    from compress.models.tokenizer.model import Tokenizer
    from export.foreign.writing import Writing
    from export.graph.onnx_model import OnnxModel
    from export.runtime.drawing import Known
    from export.runtime.engine import Engine
    from export.runtime.manifest import Manifest


@dataclass(frozen=True)
class PictureConfig:
    """What neither a graph nor its config says: which of its ids are pictures, and what stands around them.

    A picture is written as `start`, the class, `picture_start`, then the tokens row by row with `row_end` between rows.
    """

    grid: tuple[int, int] = setting(doc="rows and columns of tokens", low=1)
    image_vocabulary: int = setting(0, doc="image tokens; 0: those of the tokenizer", low=0)
    image_offset: int | None = setting(None, doc="id of image token 0; the others follow", low=0)
    image_ids: Any = setting(None, doc="id of each image token: a list, or a JSON file that holds one")
    start: tuple[int, ...] = setting((), doc="ids before the class", low=0)
    classes: Any = setting((), doc="id of each class, or a list of ids for each (its prompt); or a JSON file")
    no_class: Any = setting(None, doc="id or ids that stand for no class; needed where there are classes")
    picture_start: tuple[int, ...] = setting((), doc="ids between the class and the picture", low=0)
    row_end: tuple[int, ...] = setting((), doc="ids between two rows of tokens", low=0)
    sampler: Sampler = setting(Sampler(), doc="how it draws")
    first_run_seconds: float = setting(120.0, doc="in which the graph's first runs have to end", low=1, high=86_400)

    def writing(self, vocabulary: int, known: tuple[int, ...], where: str) -> Writing:
        """How a picture of so many image tokens is written; `known` are their ids by the model's own config, if any.

        Raises:
            InputError: something is missing, contradicts another thing, or is no id.
        """
        from export.foreign.writing import Writing

        if self.image_vocabulary not in (0, vocabulary):
            raise InputError(
                f"{where}.image_vocabulary: {self.image_vocabulary}; the tokenizer has {vocabulary} tokens"
            )
        named = listed(self.classes, f"{where}.classes")
        classes = [ids_of(each, f"{where}.classes[{index}]") for index, each in enumerate(named)]
        if classes and self.no_class is None:
            raise InputError(f"{where}: 'no_class' is missing; guidance and pictures without a class read it")
        if not classes and self.no_class is not None:
            raise InputError(f"{where}.no_class: there are no classes; put its ids into start")
        nothing = () if self.no_class is None else ids_of(self.no_class, f"{where}.no_class")
        prompts = tuple((*self.start, *each, *self.picture_start) for each in (*classes, nothing))
        try:
            return Writing(self.grid, self.ids(vocabulary, known, where), prompts, self.row_end)
        except ValueError as error:
            raise InputError(f"{where}: {error}; give start, classes or picture_start") from error

    def ids(self, vocabulary: int, known: tuple[int, ...], where: str) -> tuple[int, ...]:
        """The id of each image token (V,)."""
        if self.image_ids is not None and self.image_offset is not None:
            raise InputError(f"{where}: image_offset and image_ids say the same thing; keep one")
        if self.image_ids is None and self.image_offset is None:
            found = known
        elif self.image_ids is None:
            assert self.image_offset is not None
            return tuple(range(self.image_offset, self.image_offset + vocabulary))
        else:
            found = ids_of(listed(self.image_ids, f"{where}.image_ids"), f"{where}.image_ids")
        if not found:
            raise InputError(f"{where}: give image_offset or image_ids, the ids of the {vocabulary} image tokens")
        if len(found) != vocabulary:
            raise InputError(f"{where}.image_ids: {len(found)} ids for {vocabulary} image tokens")
        return found


def files_of(config: dict[str, Any]) -> list[Path]:
    """The files that a picture config names."""
    return [user_path(config[key], key) for key in ("image_ids", "classes") if isinstance(config.get(key), str)]


def listed(value: Any, where: str) -> list[Any]:
    """A list, or what a JSON file holds.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        try:
            value = read_json(user_path(value))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: {shown(value)} is not a list")
    return list(value)


def ids_of(value: Any, where: str) -> tuple[int, ...]:
    """One id, or several.

    Raises:
        InputError: it is something else.
    """
    found = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for each in found:
        if not isinstance(each, int) or isinstance(each, bool) or each < 0:
            raise InputError(f"{where}: {shown(each)} is no id; ids are whole numbers from 0")
    return found


class AdoptedModel(Shaped):
    """An ONNX graph as the untouched model of a recipe; it scores and draws through the runtime (a `Candidate`)."""

    def __init__(self, model: OnnxModel, folder: Path | None = None, threads: int = 0) -> None:
        self.model, self.folder, self.threads = model, folder, threads
        self.rooms: list[tempfile.TemporaryDirectory[str]] = []  # temporary folders that live as long as the model
        self.opening = Lock()  # several threads may ask for the engine first

    @cached_property
    def engine(self) -> Engine:
        """The runtime's, from the folder where the model rests or from a temporary one."""
        from export.runtime.engine import Engine

        with self.opening:
            if self.folder is None:
                self.rooms.append(tempfile.TemporaryDirectory(prefix="compress-"))
                self.folder = Path(self.rooms[-1].name)
                self.model.save(self.folder)
            return Engine.load(self.folder, self.threads)

    @property
    def manifest(self) -> Manifest:
        """What the graph is."""
        return self.model.manifest

    @property
    def name(self) -> str:
        """What it is called."""
        return self.manifest.name

    @property
    def family(self) -> str:
        """The family that read it."""
        return self.manifest.family

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""
        return self.manifest.shape

    @property
    def sampler(self) -> Sampler:
        """How it draws unless told otherwise."""
        return self.manifest.sampler

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and colour channels of a picture."""
        return self.engine.picture

    def parameters(self) -> int:
        """Weights of the decode graph."""
        return self.manifest.parameters

    @property
    def cache_bytes(self) -> int:
        """What keys and values of one row take."""
        return self.engine.cache_bytes

    def score(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...)."""
        return self.engine.score(inputs, features)

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits (N, T, O) step by step as when drawing."""
        return self.engine.score_stepwise(inputs, features)

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
        """Tokens (N, T) of new pictures of these classes (N,), which are numbered from `first`."""
        return self.engine.draw_tokens(labels, seed, sampler, features, known, first, on_step)

    def generate(
        self, labels: NDArray[np.int64], seed: int = 0, features: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """New pictures (N, H, W, C) of these classes (N,)."""
        return self.decode_images(self.draw_tokens(labels, seed, features=features))

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, H, W, C)."""
        from export.runtime.engine import EngineError

        try:
            return self.engine.encode_images(images)
        except EngineError as error:
            raise InputError(f"{self.name}: its tokenizer only decodes; it makes no tokens of pictures") from error

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C) of tokens (N, T)."""
        return self.engine.decode_images(tokens)


def adopted(
    path: Path,
    name: str,
    family: str,
    tokenizer: Tokenizer,
    config: PictureConfig,
    where: str,
    known: tuple[int, ...] = (),
) -> AdoptedModel:
    """The foreign graph in a file as a model that draws with this tokenizer.

    Raises:
        InputError: the file is no causal decoder of the known signature, or the config does not fit it.
    """
    from export.foreign.adopt import adopt, forget_types, parameters
    from export.foreign.signature import AdoptionError
    from export.foreign.trial import Trial, try_out
    from export.graph.graph_file import brief, load_graph
    from export.graph.onnx_model import FILES, OnnxModel
    from export.graph.weights import bytes_beside
    from export.runtime.manifest import Manifest
    from export.targets.conformance import violations
    from export.tracing.export import Pictures

    if tokenizer.length != config.grid[0] * config.grid[1]:
        raise InputError(
            f"{where}.grid: {list(config.grid)}, but a picture of the tokenizer has {tokenizer.length} tokens"
        )
    writing = config.writing(tokenizer.vocabulary, known, where)
    with one_line(path):
        source = load_graph(path)
        made = adopt(source, writing, lambda: stated_cache(path.parent))
    pictures = Pictures(tokenizer.decoder(), tokenizer.encoder(), tokenizer.length, tokenizer.picture)
    files = ["decode", "image_decoder", *(["image_encoder"] if pictures.encoder_graph is not None else [])]
    manifest = Manifest(
        name=name,
        family=family,
        target="onnxruntime",
        cache="growing" if made.kv_heads else "none",
        shape=writing.shape,
        head_width=made.head_width,
        kv_heads=made.kv_heads,
        sampler=config.sampler,
        parameters=parameters(made.decode),
        call_scaled=made.rounds,
        rounds_inputs=rounds_inputs(made.decode.graph),
        files={each: FILES[each] for each in files},
    )
    model = OnnxModel(made.decode, pictures.decoder_graph, manifest, image_encoder=pictures.encoder_graph)
    room = tempfile.TemporaryDirectory(prefix="compress-")
    with one_line(path):
        if violations(model):
            forget_types(made.decode.graph)
        if findings := violations(model):
            raise AdoptionError(brief(findings[0]))
        model.save(Path(room.name))
        size = path.stat().st_size + bytes_beside(source)
        trial = Trial(path, size, Path(room.name), manifest, writing, made.lacks)
        try_out(trial, seconds=config.first_run_seconds, threads=0)
    found = AdoptedModel(model, Path(room.name))
    found.rooms.append(room)
    return found


def decoder_size(path: Path) -> tuple[int, int]:
    """Weights of a causal decoder in an ONNX file, and bytes on disk.

    Raises:
        InputError: the file is damaged, or no such decoder; what it has and what it lacks.
    """
    from export.foreign.adopt import parameters, recognise
    from export.foreign.signature import AdoptionError
    from export.graph.graph_file import load_graph
    from export.graph.weights import bytes_beside

    with one_line(path):
        graph = load_graph(path)
        try:
            recognise(graph)
        except AdoptionError as error:
            raise AdoptionError(f"an ONNX file, but no decoder that can be read: {error}") from error
        return parameters(graph), path.stat().st_size + bytes_beside(graph)


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a foreign graph; its readers say nothing of their own.

    Raises:
        InputError: anything failed; onnxscript and onnx_ir fail in many ways on graphs that no runtime reads.
    """
    from export.foreign.signature import AdoptionError
    from export.foreign.trial import TrialError
    from export.graph.graph_file import GraphFileError
    from export.graph.quiet import quiet
    from export.runtime.errors import first_line

    try:
        with quiet():
            yield
    except InputError:
        raise
    except GraphFileError as error:
        raise InputError(str(error)) from error
    except (AdoptionError, TrialError) as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f"{path}: not a graph that can be read ({first_line(cause)})") from error


def stated_cache(folder: Path) -> tuple[int, int]:
    """Key/value heads and their width by the configs beside a graph, 0 where they do not say them."""
    from compress.models.checkpoints.layouts import read_config

    for name in ("genai_config.json", "config.json"):
        config: Any = read_config(folder / name)
        for key in ("model", "decoder", "text_config"):  # where onnxruntime-genai and mixed models keep it
            config = config.get(key) if isinstance(config.get(key), dict) else config
        heads = whole(config, "num_attention_heads")
        kv_heads = whole(config, "num_key_value_heads") or heads
        width = whole(config, "head_size") or whole(config, "head_dim")
        width = width or (whole(config, "hidden_size") // heads if heads else 0)
        if kv_heads and width:
            return kv_heads, width
    return 0, 0


def whole(config: dict[str, Any], key: str) -> int:
    """A number of a config that others wrote, 0 if it is none."""
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def picture_config(value: dict[str, Any], where: str) -> PictureConfig:
    """The `model.config` of a recipe.

    Raises:
        InputError: a key is unknown, missing or of another type.
    """
    return parse(PictureConfig, value, where)


def opened(folder: Path, threads: int = 0) -> AdoptedModel:
    """The model in an engine folder."""
    from export.graph.onnx_model import OnnxModel
    from export.runtime.engine import EngineError

    try:
        return AdoptedModel(OnnxModel.load(folder), folder, threads)
    except EngineError as error:
        raise InputError(str(error)) from error

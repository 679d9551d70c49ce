"""The manifest of an engine folder: what its graphs are, and the hashes that prove they are whole.

It is read strictly: a key that is not a field here, or a value that is not of the field's type, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import deployment
from .built import Build
from .devices import DOORS
from .engine_files import Seal, check_names, check_place, file_hash, sealed
from .errors import EngineError, shown
from .sampling import Sampler
from .shape import LONGEST, Shape
from .strict_json import convert, parse, read_json, whole

__all__ = [
    "BEGIN",
    "DECODE",
    "FILE",
    "GENERATE",
    "IMAGE_DECODER",
    "IMAGE_ENCODER",
    "PLAN_SUFFIX",
    "SCALES",
    "Cache",
    "EngineError",
    "Manifest",
    "file_hash",
]

FORMAT = 1
FILE = "manifest.json"
DECODE = "decode.onnx"
IMAGE_DECODER = "image_decoder.onnx"
IMAGE_ENCODER = "image_encoder.onnx"  # pictures to tokens, where the checkpoint has it
BEGIN = "begin.onnx"  # what is computed once before the steps of a picture
SCALES = "scales.onnx"  # tokens to what a next-scale model reads
GENERATE = "generate.onnx"  # all of it in one graph: labels and a seed in, pictures out
PLAN_SUFFIX = ".plan"  # of what TensorRT built of a graph, beside its name: decode.plan
NOT_IN_KEY = ("files", "cpu", "build", "provenance", "measured")
LARGEST_MANIFEST = 2**24  # bytes; with every measurement of a large model it has a few hundred thousand

Cpu = Literal["any", "vnni"]  # vnni: of x86 processors those whose 8-bit products do not saturate
Cache = Literal["growing", "shared", "static", "none"]
Floats = Literal["float32", "float16", "bfloat16"]
CacheFormat = Literal[Floats, "int8", "int4"]


@dataclass(frozen=True)
class Manifest:
    """What an engine folder holds.

    `cache` says how keys and values are kept: ``growing`` (past in, longer present out), ``shared`` (one buffer of full
    length, updated in place, GroupQueryAttention), ``static`` (buffers of full length in and out, TensorScatter),
    ``none`` (a masked model sees all positions at every step).
    `cache_format` is what they are kept in; of int4 two lie in a byte.
    `weight_only` says that weights alone are quantized, so the runtime is not to round activations on its own.
    `fixed_batch` is the only number of rows that the graph takes; 0: any.
    `call_scaled` says that products round their inputs depending on what else is in a call, by one scale for all of it
    or by another kernel for several rows.
    `rounds_inputs` says that products round their inputs: sums in another order may come out a whole code apart.
    `floats` is what the graphs compute in, but for the nodes that have to stay in float32; those of the modules
    `float32_layers` do because their activations are too large.
    `provider_options` are those of ONNX Runtime's execution providers, by the name of the device.
    `stream_rotation` is the seed of the matrix that rotates the residual stream, for those that look inside; 0: none.
    `licence` is the model's, by its SPDX identifier where it has one; empty: not known.
    `cpu` says on which processors ONNX Runtime's usual int8 kernels are right: ``any``, or ``vnni`` where weights are
    so large that products saturate on x86 without VNNI; None: made before this was recorded.
    """

    name: str
    family: str
    target: str
    cache: Cache
    shape: Shape
    head_width: int = field(metadata=whole(0, LONGEST))
    kv_heads: tuple[int, ...] = field(metadata=whole(1, LONGEST))
    sampler: Sampler
    parameters: int = field(metadata=whole(0))
    weight_only: bool = False
    fixed_batch: int = field(default=0, metadata=whole(0, LONGEST))
    call_scaled: bool = False
    rounds_inputs: bool = False
    sampling: bool = False
    cache_format: CacheFormat = "float32"
    floats: Floats = "float32"
    float32_layers: tuple[str, ...] = ()
    provider_options: dict[str, dict[str, str]] = field(default_factory=dict)
    stream_rotation: int = field(default=0, metadata=whole(0))
    licence: str = ""
    cpu: Cpu | None = None
    build: Build | None = None
    files: dict[str, str] = field(default_factory=lambda: {"decode": DECODE, "image_decoder": IMAGE_DECODER})
    provenance: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 of what the manifest says of the model, which the graphs hold too, so that each shows whose it is.

        It is that of its canonical JSON without what says of files, hashes and processors, and without what is added
        later: the manifest holds hashes of the graphs, so these cannot hold one of all of it.
        """
        said = {name: value for name, value in asdict(self).items() if name not in NOT_IN_KEY}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the manifest with the hash of every file it names."""
        hashes = {name: file_hash(folder / name) for name in self.files.values()}
        value = {"format": FORMAT, **asdict(self), "sha256": hashes}
        (folder / FILE).write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest and check that every file is what was written.

        Raises:
            EngineError: no manifest, one that is not strictly what it has to be, one of another format, or a file that
            is missing, damaged, without a hash, or not in the folder.
        """
        return cls.read(folder)[0]

    @classmethod
    def read(cls, folder: Path) -> tuple[Manifest, dict[str, Seal]]:
        """The same, and what was hashed, by the keys of `files`.

        Raises:
            EngineError: as `load` says.
        """
        manifest, sha256 = cls.said(folder)
        return manifest, sealed(folder, manifest.files, sha256)

    @classmethod
    def said(cls, folder: Path) -> tuple[Manifest, dict[str, str]]:
        """What a manifest says, and the hashes in it; the files themselves are not read.

        Raises:
            EngineError: no manifest, or one that is not strictly what it has to be.
        """
        path = folder / FILE
        try:
            check_place(folder, path)
            value = read_json(path, LARGEST_MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise EngineError(f"{path}: there is no such file; an engine folder holds {FILE}") from None
        except OSError as error:
            raise EngineError(f"{path}: not readable ({error})") from error
        known = value if isinstance(value, dict) else {"format": value}
        if type(known.get("format")) is not int or known["format"] != FORMAT:
            raise EngineError(f"{path}: format is {shown(known.get('format'))}; this version reads format {FORMAT}")
        said = {name: each for name, each in known.items() if name not in ("format", "sha256")}
        manifest = parse(cls, said, f"{path}:")
        if "sha256" not in known:
            raise EngineError(f"{path}: 'sha256' is missing; it holds the hash of every file")
        sha256 = convert(dict[str, str], known["sha256"], f"{path}: sha256", {})
        check_names(manifest.files, sha256, str(path))
        for reason in manifest.contradictions():
            raise EngineError(f"{path}: {reason}")
        return manifest, sha256

    def contradictions(self) -> Iterator[str]:
        """What cannot be true together, one sentence each."""
        shape = self.shape
        if self.cache != "none" and not (self.kv_heads and self.head_width):
            yield f"cache is {self.cache!r}, so kv_heads and head_width must not be empty or 0"
        if self.cache != "shared" and self.cache_format in ("int8", "int4"):
            yield f"cache is {self.cache!r} and cache_format {self.cache_format!r}; only a 'shared' cache is quantized"
        if self.cache_format == "int4" and self.head_width % 2:
            yield f"head_width is {self.head_width}; two numbers of int4 share a byte, so it must be even"
        if shape.drawing.masks and self.cache != "none":
            yield f"cache is {self.cache!r}; a masked model has none"
        of_scales = {bool(shape.scales), shape.latent_width > 0, "scales" in self.files}
        if of_scales != {shape.drawing.scaled}:
            yield f"order is {shape.order!r}; next-scale models, and no others, have scales, a latent_width and a graph"
        if shape.outputs and shape.outputs < shape.vocabulary:
            yield f"shape.outputs is {shape.outputs}; there are {shape.vocabulary} tokens to choose from"
        for name in self.provider_options.keys() - DOORS.keys():
            yield f"provider_options: {shown(name)} is not one of {', '.join(map(repr, DOORS))}"
        found = deployment.find(self.target)
        if found is None:
            yield f"target: {shown(self.target)} is not one of {', '.join(map(repr, deployment.names()))}"
        elif self.cache not in found.caches:
            yield f"cache is {self.cache!r}; one for {self.target} is {' or '.join(map(repr, found.caches))}"

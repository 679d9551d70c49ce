"""The manifest of an engine folder: what its graphs are, and the hashes that prove they are whole.

Standard library only, because the runtime reads it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from export.errors import EngineError
from export.sampling import Sampler
from export.shape import Shape, TextShape

__all__ = [
    "BEGIN",
    "DECODE",
    "FILE",
    "GENERATE",
    "IMAGE_DECODER",
    "IMAGE_ENCODER",
    "PLAN",
    "SCALES",
    "Cache",
    "EngineError",
    "Manifest",
    "Target",
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
PLAN = "decode.plan"  # what TensorRT built of the decode graph, where it did

Target = Literal["onnxruntime", "standard", "tensorrt"]
Cpu = Literal["any", "vnni"]  # vnni: of x86 processors those whose 8-bit products do not saturate
Cache = Literal["growing", "shared", "static", "none"]


@dataclass(frozen=True)
class Manifest:
    """What an engine folder holds.

    `cache` says how keys and values are kept: ``growing`` (past in, longer present out), ``shared`` (one buffer of full
    length, updated in place, GroupQueryAttention), ``static`` (buffers of full length in and out, TensorScatter),
    ``none`` (a masked model sees all positions at every step).
    `weight_only` says that weights alone are quantized, so the runtime is not to round activations on its own.
    `fixed_batch` is the only number of rows that the graph takes; 0: any.
    `call_scaled` says that products round their inputs depending on what else is in a call, by one scale for all of it
    or by another kernel for several rows.
    `cpu` says on which processors ONNX Runtime's usual int8 kernels are right: ``any``, or ``vnni`` where weights are
    so large that products saturate on x86 without VNNI; None: made before this was recorded.
    """

    name: str
    family: str
    target: Target
    cache: Cache
    shape: Shape
    head_width: int
    kv_heads: tuple[int, ...]
    sampler: Sampler
    parameters: int
    weight_only: bool = False
    fixed_batch: int = 0
    call_scaled: bool = False
    sampling: bool = False
    cache_format: Literal["float32", "int8"] = "float32"
    cpu: Cpu | None = None
    files: dict[str, str] = field(default_factory=lambda: {"decode": DECODE, "image_decoder": IMAGE_DECODER})
    provenance: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the manifest with the hash of every file it names."""
        hashes = {name: file_hash(folder / name) for name in self.files.values()}
        value = {"format": FORMAT, **asdict(self), "sha256": hashes}
        (folder / FILE).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest and check that every file is what was written.

        Raises:
            EngineError: no manifest, an unreadable one, one of another format, or a file that is missing or damaged.
        """
        path = folder / FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise EngineError(f"{path}: there is no such file; an engine folder holds {FILE}") from None
        except (OSError, ValueError) as error:
            raise EngineError(f"{path}: not readable JSON ({error})") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else value
            raise EngineError(f"{path}: format is {found!r}; this version reads format {FORMAT}")
        try:
            for name, sha256 in value["sha256"].items():
                if file_hash(folder / name) != sha256:
                    raise EngineError(
                        f"{folder / name}: damaged (its content is not what was exported); export it again"
                    )
            known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
            known |= {
                "shape": read_shape(value["shape"]),
                "kv_heads": tuple(value["kv_heads"]),
                "sampler": Sampler(**value["sampler"]),
            }
            return cls(**known)
        except FileNotFoundError as error:
            raise EngineError(f"{error.filename}: missing from the engine folder") from error
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{path}: incomplete or wrong ({type(error).__name__}: {error})") from error


def read_shape(value: dict[str, Any]) -> Shape:
    """The shape that JSON knows as a mapping with lists."""
    text = value["text"]
    lists = {name: tuple(value[name]) for name in ("grid", "scales")}
    return Shape(**{**value, **lists, "text": None if text is None else TextShape(**text)})


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What TensorRT for RTX builds of every family, on any machine: `python benchmarks/tensorrt_builds.py`.

Every model is quantized, exported in half precision, hoisted, fused and built for several kinds of GPU at once; the
table says what the builder's own list of kernels shows of each plan. Models are the three that ship, the golden
checkpoints of the published formats (tests/data/golden), and shapes of LlamaGen with random weights. Nothing runs on a
GPU. `--markdown FILE` replaces the table in a document between its two marks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch

from calibration.tokens import TokenSet
from compress.core.settings import parse
from compress.models import families
from compress.models.families import Source
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import PixelTokenizer
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context, find
from export.graph.onnx_model import FILES
from export.runtime.built import Build

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "data" / "golden"
FAMILIES = (
    "amused", "halton-maskgit", "imagegpt", "llamagen-c2i", "llamagen-t2i", "rar", "taming-mingpt", "titok-bert", "var",
)  # fmt: skip
TOKENIZERS = {"var": "var-vqvae"}  # whose codebook the transformer reads
# Formats whose golden checkpoint has heads of 8, for which there is no fused kernel; published ones have 64.
NARROW = ("amused", "titok-bert")
WIDE, HEAD, HEADS = " with heads of 64", 64, 2
SHIPPED = ("digits", "emoji", "emoji-masked")
SHAPES = ("llamagen-b",)
ALL = [*SHIPPED, *FAMILIES, *(f"{name}{WIDE}" for name in NARROW), *SHAPES]
INT8: dict[str, Any] = {"weights": "int8", "activations": "int8"}
FP8: dict[str, Any] = {"weights": "fp8", "activations": "fp8"}
# Of each format: the quantization, and the GPUs.
FORMATS: dict[str, tuple[dict[str, Any] | None, tuple[float, ...]]] = {
    "fp16": (None, (8.6, 8.9, 12.0)),
    "int8": (INT8, (8.6, 8.9, 12.0)),
    "fp8": (FP8, (8.9, 12.0)),
    "int4 in 64s": ({"weights": "int4", "group": 64, "head": "float"}, (8.6, 8.9, 12.0)),
    "int4 in 128s": ({"weights": "int4", "group": 128, "head": "float"}, (8.6, 8.9, 12.0)),
}
PICTURES = 4  # ranges of random tokens mean nothing, but static scales must be there
BEGIN, END = "<!-- builds -->", "<!-- end of builds -->"
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One built engine; shares are counts of what was found and of what the graph asks for."""

    model: str
    format: str
    capabilities: str
    parts: tuple[str, ...]
    low: tuple[int, int]
    fused: tuple[int, int]
    in_place: tuple[int, int]
    unpacked: int
    kernels: int
    onnx_mib: float
    plan_mib: float
    processor_seconds: float
    not_built: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, print the table, and write it where it is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=ALL, help="of those in this file")
    parser.add_argument("--formats", nargs="+", default=[*FORMATS], choices=[*FORMATS])
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--markdown", type=Path, help="a document whose table is replaced")
    options = parser.parse_args(arguments)
    rows = []
    for row in built(options.models, options.formats):
        print(json.dumps(asdict(row)), flush=True)
        rows.append(row)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if options.markdown:
        text = options.markdown.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        options.markdown.write_text(f"{before}{BEGIN}\n{table(rows)}{END}{after}", encoding="utf-8")
    print(table(rows))


def built(models: Sequence[str], formats: Sequence[str]) -> Iterator[Row]:
    """A row for every model in every format."""
    for name in models:
        model = open_model(name)
        for number_format in formats:
            with tempfile.TemporaryDirectory() as room:
                yield build(name, model, number_format, Path(room))


def open_model(name: str) -> ImageModel:
    """A shipped model, a golden checkpoint with grey levels for its tokens, or a published shape."""
    if name.endswith(WIDE):
        return with_wide_heads(open_model(name.removesuffix(WIDE)))
    if name in FAMILIES:
        path = str(GOLDEN / name)
        source = Source(path, tokenizer=str(GOLDEN / TOKENIZERS[name]) if name in TOKENIZERS else "")
        model = families.load(source, path, lambda config: PixelTokenizer(config.vocabulary, config.grid))
        assert isinstance(model, ImageModel)
        return model
    return shapes.build(name)


def with_wide_heads(model: ImageModel) -> ImageModel:
    """The same architecture with two heads of 64 in every attention, and random weights."""
    config, width = model.transformer.config, HEADS * HEAD
    if config.uvit:
        uvit = replace(config.uvit, channels=width, heads=HEADS, cross_heads=HEADS)
        config = replace(config, uvit=uvit)
    layers = [replace(layer, heads=HEADS, kv_heads=HEADS) for layer in config.layers]
    config = replace(config, width=width, head_width=HEAD, layers=tuple(layers))
    torch.manual_seed(0)
    transformer = TokenTransformer(config).eval().requires_grad_(False)
    return replace(model, transformer=transformer)


def build(name: str, model: ImageModel, number_format: str, room: Path) -> Row:
    """One engine, through the passes that a recipe names."""
    quantization, capabilities = FORMATS[number_format]
    steps: list[tuple[str, dict[str, Any]]] = [
        ("export", {"target": "tensorrt", "floats": "float16"}),
        ("hoist", {}),
        ("fuse", {}),
        ("build-engine", {"compute_capability": list(capabilities), "required": True}),
    ]
    if quantization is not None:
        head = "float" if model.transformer.config.tied_head else "same"  # a tied head stays with its embedding
        numbers = {"ranges": "absmax", "rounding": "nearest", "down": "same", "head": head}
        steps.insert(0, ("quantize", {**numbers, **quantization}))
    context = Context(model, random_tokens(model), PICTURES, 0, room)
    current: Any = model
    for step, settings in steps:
        outcome = parse(find(step, "builds"), settings, f"builds.{step}").run(current, context)
        current = outcome.model
    current.save(folder := room_for(room))
    onnx = sum(path.stat().st_size for path in folder.glob(f"{FILES['decode']}*"))
    return row_of(name, number_format, current.manifest.build, onnx, outcome.notes)


def room_for(room: Path) -> Path:
    """A folder for the engine."""
    folder = room / "engine"
    folder.mkdir()
    return folder


def random_tokens(model: ImageModel) -> TokenSet:
    """Tokens to calibrate on."""
    generator, shape = np.random.default_rng(0), model.shape
    text = shape.text
    features = None if text is None else generator.standard_normal((PICTURES, text.length, text.width))
    return TokenSet(
        generator.integers(0, shape.vocabulary, (PICTURES, shape.length)),
        generator.integers(0, max(1, shape.classes), PICTURES),
        np.zeros(PICTURES, dtype=np.int64),
        None if features is None else features.astype(np.float32),
    )


def row_of(name: str, number_format: str, record: Build, onnx_bytes: int, notes: Any) -> Row:
    """What the record of a build says, over all graphs and profiles; kernels are those of a step."""
    found = [each for part in record.parts.values() for each in part.evidence]
    decode = record.parts["decode"]
    step = next(each for each in decode.evidence if each.profile in ("step", "whole"))
    return Row(
        model=name,
        format=number_format,
        capabilities=", ".join(record.capabilities),
        parts=tuple(record.parts),
        low=(sum(each.low for each in found), sum(each.asked for each in found)),
        fused=(sum(each.fused for each in found), sum(each.attentions for each in found)),
        in_place=(sum(each.in_place for each in found), sum(each.caches for each in found)),
        unpacked=sum(each.unpacked for each in found),
        kernels=step.kernels,
        onnx_mib=round(onnx_bytes / MIB, 1),
        plan_mib=round(decode.plan_bytes / MIB, 1),
        processor_seconds=round(notes.plans["decode"].processor_seconds, 1),
        not_built=dict(record.not_built),
    )


def table(rows: Sequence[Row]) -> str:
    """All rows in Markdown."""
    lines = [
        "| Model | Weights and activations | For | Plans | Products as asked | Attentions fused | Caches in place | "
        "Weights unpacked at each call | Kernels of a step | ONNX, MiB | Plan, MiB | Build, processor seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = [f"{found} of {asked}" if asked else "none" for found, asked in (row.low, row.fused, row.in_place)]
        cells = [
            f"`{row.model}`",
            row.format,
            row.capabilities,
            ", ".join(row.parts),
            *counts,
            row.unpacked,
            row.kernels,
        ]
        cells += [row.onnx_mib, row.plan_mib, row.processor_seconds]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

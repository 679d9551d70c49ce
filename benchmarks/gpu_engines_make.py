"""Decode graphs for `gpu_engines.py`, made on a CPU: `python benchmarks/gpu_engines_make.py FOLDER`.

Needs what `make setup` installs, and no GPU. Send FOLDER to a machine with one, and there, with onnxruntime-gpu instead
of onnxruntime: `python benchmarks/gpu_engines.py FOLDER --json FILE`.

Each is a graph in fp32 and the same in fp16, without its large weights: those of a shipped model lie beside both in
fp16, which is how they are stored, and those of a published shape are drawn where the graph is run. So the folder is
small enough to send.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import shapes
import stacks
from gpu_engines import FP16, FP32, VALUES, WEIGHTS, layout
from onnxruntime.transformers.float16 import convert_float_to_float16

from calibration.tokens import TokenSet
from compress.core.settings import parse
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import PixelTokenizer
from compress.passes import Context, find
from export.graph.onnx_model import OnnxModel

LARGE = 2**14  # bytes of a constant that is left out of the graph
KEPT = ("cosine", "sine")  # tables of rotary positions, which random numbers cannot stand for
STATIC: stacks.Steps = [{"export": {"target": "tensorrt"}}, {"fuse": {}}]
CHAINS: dict[str, stacks.Steps] = {
    "export": stacks.EXPORT,
    "fused": stacks.FUSED,
    "static cache": STATIC,
    "int8 g128": stacks.weights("int8") + stacks.FUSED,
    "int4 g128": stacks.weights("int4") + stacks.FUSED,
    "int8 static": stacks.STATIC + stacks.FUSED,
    "fused, sampling": stacks.FUSED + stacks.SAMPLING,
}
ALL = tuple(CHAINS)
WANTED: dict[str, tuple[str, ...]] = {
    "tiny": ALL,
    "emoji": ALL,
    "digits": ("export", "fused"),
    "llamagen-b": ALL,
    "llamagen-xl": ("fused", "int4 g128"),
}
SMALL_GROUP = {"tiny": 32}


def main(arguments: Sequence[str] | None = None) -> None:
    """Every graph of the shapes that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", nargs="+", choices=list(WANTED), default=[name for name in WANTED if name != "tiny"])
    asked = parser.parse_args(arguments)
    for name in asked.shape:
        model = shapes.build(name)
        model = replace(model, tokenizer=PixelTokenizer(model.shape.vocabulary, model.shape.grid))
        for chain in WANTED[name]:
            folder = asked.folder / name / chain.replace(", ", "-").replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            made = passed(model, chain, SMALL_GROUP.get(name))
            write(made, model, chain, folder, real=name in shapes.SHIPPED)
            size = sum(each.stat().st_size for each in folder.iterdir())
            print(f"{folder}: {size / 2**20:.2f} MiB", flush=True)


def passed(model: ImageModel, chain: str, group: int | None) -> OnnxModel:
    """The engine behind the passes of a chain, in memory."""
    generator, shape = np.random.default_rng(0), model.shape
    tokens = TokenSet(
        generator.integers(0, shape.vocabulary, (stacks.CALIBRATION, shape.length)),
        generator.integers(0, max(1, shape.classes), stacks.CALIBRATION),
        np.zeros(stacks.CALIBRATION, dtype=np.int64),
    )
    current: Any = model
    with tempfile.TemporaryDirectory() as room:
        context = Context(model, tokens, stacks.CALIBRATION, 0, Path(room))
        for step in CHAINS[chain]:
            for name, settings in step.items():
                if group and "group" in settings:
                    settings = {**settings, "group": group}
                if name == "quantize":
                    head = "float" if model.transformer.config.tied_head else "same"
                    settings = {"head": head, "rounding": "nearest", **settings}
                current = parse(find(name, "chain"), settings, f"chain.{name}").run(current, context).model
    assert isinstance(current, OnnxModel)
    return current


def write(made: OnnxModel, model: ImageModel, chain: str, folder: Path, real: bool) -> None:
    """The graph in both precisions, and what the other script has to know of it."""
    manifest, config = made.manifest, model.transformer.config
    tensors, values = stripped(made.decode)
    about = {
        "shape": model.name,
        "engine": chain,
        "cache": manifest.cache,
        "kv_heads": list(manifest.kv_heads),
        "head_width": manifest.head_width,
        "reach": model.shape.reach,
        "predicted": model.shape.predicted,
        "vocabulary": model.shape.vocabulary,
        "first_class": config.first_class,
        "classes": config.classes,
        "length": model.shape.length,
        "real": real,
        "tensors": tensors,
    }
    ir.save(made.decode, folder / f"{FP32}.onnx")
    graph = onnx.load(str(folder / f"{FP32}.onnx"), load_external_data=False)
    placed(graph, tensors, FP32)
    onnx.save(graph, str(folder / f"{FP32}.onnx"))
    onnx.save(halved(graph, tensors), str(folder / f"{FP16}.onnx"))
    if real:
        np.concatenate([each.reshape(-1).view(np.uint8) for each in values]).tofile(folder / VALUES)
    (folder / "case.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def stripped(graph: ir.Model) -> tuple[list[dict[str, Any]], list[np.ndarray[Any, Any]]]:
    """Leave large constants out of a graph: name, type, sizes, mean and spread of each, and its values, floats in fp16.

    Weights of a shipped model are what fp16 holds; scales of quantized ones are rounded, in both precisions alike.
    """
    tensors, values = [], []
    for name, value in graph.graph.initializers.items():
        found = value.const_value
        if found is None or found.nbytes < LARGE or name in KEPT:
            continue
        numbers = found.numpy()
        kind = found.dtype.name.lower()
        row: dict[str, Any] = {"name": name, "kind": kind, "sizes": list(numbers.shape)}
        if kind == "float":
            row |= {"mean": float(numbers.mean()), "spread": float(numbers.std())}
            numbers = numbers.astype(np.float16)
        tensors.append(row)
        values.append(np.ascontiguousarray(numbers))
        value.const_value = ir.ExternalTensor(
            WEIGHTS, 0, found.nbytes, found.dtype, shape=ir.Shape(numbers.shape), name=name
        )
    return tensors, values


def placed(graph: onnx.ModelProto, tensors: list[dict[str, Any]], precision: str) -> None:
    """Where each large constant lies in the file of weights."""
    places = layout(tensors, precision)
    for tensor in graph.graph.initializer:
        if tensor.name not in places:
            continue
        offset, count, sizes = places[tensor.name]
        for data in ("raw_data", "float_data", "int32_data", "dims", "external_data"):
            tensor.ClearField(data)
        tensor.dims.extend(sizes)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, said in {"location": WEIGHTS, "offset": offset, "length": count}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(said)


def halved(graph: onnx.ModelProto, tensors: list[dict[str, Any]]) -> onnx.ModelProto:
    """The same graph in fp16 by ONNX Runtime's converter; logits stay fp32, caches become fp16.

    The converter wants values, so that large constants are single numbers while it works.
    """
    copy, large = onnx.ModelProto(), {each["name"] for each in tensors if each["kind"] == "float"}
    copy.CopyFrom(graph)
    for tensor in copy.graph.initializer:
        if tensor.name in large:
            for data in ("dims", "external_data", "data_location"):
                tensor.ClearField(data)
            tensor.dims.append(1)
            tensor.raw_data = np.ones(1, dtype=np.float32).tobytes()
    kept = ["logits", "noise", "guidance", "temperature"]
    made: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=kept, disable_shape_infer=True)
    placed(made, tensors, FP16)
    return made


if __name__ == "__main__":
    main()

"""Keep the keys and values of a shared cache in int8 or int4: GroupQueryAttention with scales that are constants.

Letters: N pictures, R rows, K key/value heads, L length of the cache, d head width.

Behind long pictures attention reads more bytes than the weights are; in int8 it reads a quarter, in int4 an eighth.
Everything is symmetric: a value is its code times the scale. Codes of int8 lie in -128..127. Those of int4 lie in
-8..7 and are kept as code + 8, two in a byte, the even channel in its low half: a buffer is (R, K, L, d / 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import Builder
from export.graph.match import scope
from export.graph.number_formats import FORMATS
from export.graph.onnx_model import OnnxModel
from export.runtime.manifest import Cache
from export.runtime.signature import CODES, DecodeSignature

SMALLEST_SCALE = 1e-8  # of a channel that was always 0
Held = Literal["int8", "int4"]
CacheFormat = Literal[Held, "fp8"]  # that can be asked for
CacheScales = Literal["channel", "tensor", "token"]
# What the kernels of GroupQueryAttention take (tried with ONNX Runtime 1.32 on the CPU): a scale for each channel of
# each head, or one for all, and the same for keys as for values. Scales are read once for all cached positions, so
# there cannot be one for each of them. No kernel keeps FP8.
KINDS: dict[CacheScales, str] = {"channel": "PER_CHANNEL", "tensor": "PER_TENSOR"}
PARTS = {"key": (3, 12), "value": (4, 13)}  # inputs of GroupQueryAttention: the past, and its scale
INPUTS = 14


def refusal(cache: Cache, held: str, scales: CacheScales) -> str:
    """Why no kernel keeps such a cache, and what there is; empty where one does."""
    if cache == "static":
        return (
            "the cache is static, and TensorRT updates only caches of floats in place: no int8, int4 or fp8; "
            "floats: float16 of export halves it"
        )
    if cache != "shared":
        return (
            f"the cache is {cache}; only a shared one can be int8 or int4: put it behind a fuse that matches "
            f"attention, for target onnxruntime"
        )
    if held not in CODES or scales not in KINDS:
        return (
            f"no kernel of GroupQueryAttention keeps {held} with a scale for each {scales}; there are "
            f"{' and '.join(CODES)}, each with scales for each {' or '.join(KINDS)}"
        )
    return ""


def cache_scales(seen: NDArray[np.float32], held: Held, scales: CacheScales) -> NDArray[np.float32]:
    """Scales of keys or values that were seen (N, K, L, d): (K * d,) by channel, (1,) for all.

    The largest magnitude stands for the largest code: what rounds with the least squared error was measured no better
    for int4, and worse for int8.
    """
    largest = np.abs(seen).max(axis=(0, 2)).reshape(-1)
    if scales == "tensor":
        largest = largest.max(keepdims=True)
    made: NDArray[np.float32] = (largest / FORMATS[held].largest).clip(SMALLEST_SCALE).astype(np.float32)
    return made


def with_quantized_cache(model: OnnxModel, held: Held, scales: Mapping[str, NDArray[np.float32]]) -> OnnxModel:
    """A copy of a model with a shared cache, which is of this format now.

    Scales by the names `0.key`, `0.value`, ...: (K * d,) by channel, (1,) for all.
    """
    decode = model.decode.clone()
    manifest = replace(model.manifest, cache_format=held)
    ports = DecodeSignature.of(manifest).caches
    for node in list(decode.graph):
        if node.op_type != "GroupQueryAttention":
            continue
        builder = Builder(decode.graph, node, scope(node))
        node.resize_inputs(INPUTS)
        kinds: dict[str, str | int] = {"kv_cache_bit_width": FORMATS[held].bits}
        for (part, (past, scale)), present in zip(PARTS.items(), node.outputs[1:3], strict=True):
            value = node.inputs[past]
            assert value is not None
            name = (value.name or "").removeprefix("past.")
            node.replace_input_with(scale, builder.initializer(f"{part}_scale", scales[name]))
            kinds[f"{part[0]}_quant_type"] = KINDS["tensor" if scales[name].size == 1 else "channel"]
            port = ports[name]
            for each in (value, present):
                each.type = ir.TensorType(ir.DataType[port.kind.upper()])
                assert each.shape is not None
                each.shape = ir.Shape([*each.shape[:3], port.sizes[3]])
        for attribute in ir.convenience.convert_attributes(kinds):
            node.attributes[attribute.name] = attribute
    return replace(model, decode=decode, manifest=manifest)

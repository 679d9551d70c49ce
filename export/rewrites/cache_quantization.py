"""Keep the keys and values of a shared cache in int8: GroupQueryAttention with a scale for each channel of each head.

Letters: N pictures, K key/value heads, L length of the cache, d head width.

Behind long pictures attention reads more bytes than the weights are; in int8 it reads a quarter. Everything is
symmetric: a value is its code times the scale, codes lie in -127..127.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import Builder
from export.graph.match import scope
from export.graph.number_formats import FORMATS
from export.graph.onnx_model import OnnxModel

SMALLEST_SCALE = 1e-8  # of a channel that was always 0
PARTS = {"key": (3, 12), "value": (4, 13)}  # inputs of GroupQueryAttention: the past, and its scale
INPUTS = 14
INT8 = ir.TensorType(ir.DataType.INT8)


def cache_scales(seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales (K * d,) of keys or values that were seen (N, K, L, d): what the largest code stands for."""
    largest: NDArray[np.float32] = np.abs(seen).max(axis=(0, 2)) / FORMATS["int8"].largest
    return largest.clip(SMALLEST_SCALE).astype(np.float32).reshape(-1)


def with_int8_cache(model: OnnxModel, scales: Mapping[str, NDArray[np.float32]]) -> OnnxModel:
    """A copy of a model with a shared cache, which is int8 now; scales (K * d,) by the names `0.key`, `0.value`, ..."""
    decode = model.decode.clone()
    for node in list(decode.graph):
        if node.op_type != "GroupQueryAttention":
            continue
        builder = Builder(decode.graph, node, scope(node))
        node.resize_inputs(INPUTS)
        for part, (past, scale) in PARTS.items():
            value = node.inputs[past]
            assert value is not None
            name = (value.name or "").removeprefix("past.")
            node.replace_input_with(scale, builder.initializer(f"{part}_scale", scales[name]))
            value.type = INT8
        for present in node.outputs[1:3]:
            present.type = INT8
        kinds: dict[str, str | int] = {
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
            "kv_cache_bit_width": 8,
        }
        for attribute in ir.convenience.convert_attributes(kinds):
            node.attributes[attribute.name] = attribute
    return replace(model, decode=decode, manifest=replace(model.manifest, cache_format="int8"))

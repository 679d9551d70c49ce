"""Edits that leave what an engine computes as it was, or change it by rounding alone: none of them may ring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compress.verifying.selftest.bases import HEAD_WIDTH
from compress.verifying.selftest.graph_edits import Array, Edit, every_weight, joined, weight
from export.runtime.manifest import DECODE, IMAGE_DECODER, IMAGE_ENCODER

FFN, QKV, OUT = "blocks.1.ffn", "blocks.1.attention.qkv.weight", "blocks.1.attention.output.weight"
NEXT, BEFORE = 24, 22  # versions of the standard beside 23, in which the operators at hand are the same


@dataclass(frozen=True)
class Harmless:
    """An edit that must not ring: its name, the sound engine that it is done to, and the gates for what comes of it."""

    name: str
    base: str
    edits: Mapping[str, Edit]
    gates: str = "exact"


def half(array: Array) -> Array:
    """Rounded to fp16."""
    return array.astype(np.float16).astype(array.dtype)


def permuted_units(*, quantized: bool = False) -> Edit:
    """Hidden units of a feed-forward layer in another order."""

    def down(matrix: Array) -> Array:
        return matrix[::-1]

    def gate_up(matrix: Array) -> Array:
        return np.concatenate([half[..., ::-1] for half in np.split(matrix, 2, axis=-1)], axis=-1)

    def of_gate_up(*names: str) -> list[Edit]:
        return [weight(f"{FFN}.gate_up.{name}", gate_up) for name in names]

    scales = ("weight_scale", "weight_zero_point") if quantized else ()
    return joined(weight(f"{FFN}.down.weight", down), *of_gate_up("weight", *scales))


def permuted_heads(heads: Sequence[int], kv_heads: Sequence[int]) -> Edit:
    """Heads of a layer in another order, with their keys and values."""
    width = HEAD_WIDTH

    def ordered(matrix: Array, order: Sequence[int]) -> Array:
        return np.concatenate([matrix[:, one * width : (one + 1) * width] for one in order], axis=1)

    def qkv(matrix: Array) -> Array:
        queries, keys = len(heads) * width, len(kv_heads) * width
        parts = np.split(matrix, [queries, queries + keys], axis=1)
        orders = (heads, kv_heads, kv_heads)
        return np.concatenate([ordered(*each) for each in zip(parts, orders, strict=True)], axis=1)

    return joined(weight(QKV, qkv), weight(OUT, lambda matrix: ordered(matrix.T, heads).T))


def opset(version: int) -> Edit:
    """The graph in another version of the standard, where its operators are the same."""

    def edit(model: onnx.ModelProto) -> None:
        for each in model.opset_import:
            if each.domain == "":
                each.version = version

    return edit


HARMLESS = (
    Harmless("weights rounded to fp16", "fused", {DECODE: every_weight(half)}, "tight"),
    Harmless("weights rounded to fp16", "masked", {DECODE: every_weight(half)}, "tight"),
    Harmless("hidden units permuted", "fused", {DECODE: permuted_units()}),
    Harmless("heads permuted", "fused", {DECODE: permuted_heads((2, 3, 0, 1), (1, 0))}),
    Harmless("heads permuted", "masked", {DECODE: permuted_heads((3, 0, 2, 1), (3, 0, 2, 1))}),
    Harmless("another opset", "plain", {DECODE: opset(NEXT)}),
    Harmless(
        "another opset", "fused", {DECODE: opset(NEXT), IMAGE_DECODER: opset(BEFORE), IMAGE_ENCODER: opset(BEFORE)}
    ),
    Harmless("hidden units permuted", "int8", {DECODE: permuted_units(quantized=True)}, "tight"),
)

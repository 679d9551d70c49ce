"""Number formats of linear layers by name, as options, settings and notes write them, and what a layer takes in one.

A name is that of the weights (``int8``, ``int4``, ``int2``, ``fp8``), then, joined by hyphens, ``static`` or
``dynamic`` where the inputs of products are rounded too, ``g`` and a number where so many inputs share a weight scale,
and ``zeros`` where weights have zero points: ``int8-static``, ``int4-g128``, ``int4-dynamic-g32-zeros``. ``float`` is
none.

Letters: K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

from compress.core.settings import InputError, shown
from compress.models.transformer.quantized import DEFAULT_BLOCK, LinearQuantization
from export.graph.format_words import FLOAT, words_of
from export.graph.number_formats import FORMATS

SCALE_BYTES = FLOAT_BYTES = 4


def format_called(name: str, where: str) -> LinearQuantization | None:
    """The format of this name; None is float.

    Raises:
        InputError: there is none, or no engine has a kernel for it.
    """
    if name == FLOAT:
        return None
    try:
        found = words_of(name)
    except ValueError as error:
        raise InputError(f"{where}: {shown(name)} {error}") from error
    weights: Any = found["weights"]
    rounded: Any = FORMATS[weights].activations if found["rounded"] else "none"
    try:
        return LinearQuantization(
            weights,
            rounded,
            dynamic=found["rounded"] == "dynamic",
            group=int(found["group"] or 0),
            symmetric=found["zeros"] is None,
        )
    except ValueError as error:
        raise InputError(f"{where}: {shown(name)}: {error}") from error


def name_of(spec: LinearQuantization | None) -> str:
    """The name of a format; how far the range of int8 weights goes is not part of it."""
    if spec is None:
        return FLOAT
    inputs = () if spec.activations == "none" else ("dynamic" if spec.dynamic else "static",)
    group = (f"g{spec.group}",) if spec.group else ()
    return "-".join([spec.weights, *inputs, *group, *(() if spec.symmetric else ("zeros",))])


def weight_bytes(inputs: int, outputs: int, spec: LinearQuantization | None) -> int:
    """Bytes of the weights (N, K) of a layer with scales and zero points, as engines for ONNX Runtime hold them."""
    if spec is None:
        return FLOAT_BYTES * inputs * outputs
    bits = FORMATS[spec.weights].bits
    if not spec.dynamic and bits == 8:
        groups = spec.groups(inputs)
        return outputs * (inputs + (SCALE_BYTES + 1) * groups)  # DequantizeLinear states its zero points
    block = spec.group or DEFAULT_BLOCK  # MatMulNBits fills the last block up
    blocks = -(-inputs // block)
    zeros = 0 if spec.symmetric else -(-blocks * bits // 8)
    return outputs * (blocks * block * bits // 8 + SCALE_BYTES * blocks + zeros)

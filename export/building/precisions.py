"""Which number formats a GPU computes, by its compute capability, so that a build is refused before it begins.

The table is what TensorRT for RTX 1.7 says when it builds one product of each kind for each capability; the tests build
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir import DataType

from export.building.capabilities import CAPABILITIES, USUAL, number


@dataclass(frozen=True)
class Precision:
    """A number format that not every GPU computes: its name in messages, and the first capability that has it."""

    name: str
    since: str


FLOAT32 = Precision("float32 products", "8.0")
BFLOAT16 = Precision("bfloat16", "8.0")
INT4 = Precision("int4 weights", "8.0")
FP8 = Precision("FP8", "8.9")
OF_TYPE = {
    DataType.BFLOAT16: BFLOAT16,
    DataType.INT4: INT4,
    DataType.UINT4: INT4,
    DataType.FLOAT8E4M3FN: FP8,
    DataType.FLOAT8E5M2: FP8,
}
PRODUCTS = ("MatMul", "Gemm", "Conv")


def used(typed: ir.Model) -> dict[Precision, str]:
    """The formats of a graph whose types are inferred, each with the first node that uses it."""
    found: dict[Precision, str] = {}
    for node in typed.graph.all_nodes():
        for value in (*node.inputs, *node.outputs):
            if value is None or value.dtype is None:
                continue
            if value.dtype in OF_TYPE:
                found.setdefault(OF_TYPE[value.dtype], node.name or node.op_type)
            elif value.dtype == DataType.FLOAT and node.op_type in PRODUCTS:
                found.setdefault(FLOAT32, node.name or node.op_type)
    return found


def refusals(formats: dict[Precision, str], capabilities: Sequence[str]) -> Iterator[str]:
    """Why a graph of these formats cannot be built for these capabilities, one sentence each."""
    for precision, node in formats.items():
        lacking = [each for each in capabilities if number(each) < number(precision.since)]
        if lacking:
            having = [each for each in CAPABILITIES if number(each) >= number(precision.since)]
            yield (
                f"{precision.name} (first at {node}): compute capability {' and '.join(lacking)} has none; "
                f"{', '.join(having)} have"
            )


def usual(formats: dict[Precision, str]) -> tuple[str, ...]:
    """The capabilities that a graph is built for where nobody says: those of `USUAL` that compute its formats."""
    return tuple(each for each in USUAL if not list(refusals(formats, [each])))

"""Weights on disk: inside a graph's ONNX file while they are few, else in a file beside it.

Protobuf ends at 2 GB, and a runtime that opens a graph with its weights inside holds them twice while it does; those
beside it are mapped into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

BESIDE = 2**23  # bytes of weights from which they lie beside the graph
PROTOBUF = 2**31 - 2**24  # bytes of weights that a file of one graph can hold, its nodes beside them
SUFFIX = ".data"
SMALLEST = 2**16  # bytes of a tensor that lies beside the graph; shapes and short constants stay inside
PAGE = 4096
LOOKUPS = ("Gather", "GatherBlockQuantized")


def constants(model: ir.Model) -> Iterator[ir.Value]:
    """Every constant of a graph and of those inside it."""
    for graph in model.graphs():
        yield from (each for each in graph.initializers.values() if each.const_value is not None)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of a graph's constants."""
    return sum(each.const_value.nbytes for each in constants(model) if each.const_value is not None)


def save_graph(model: ir.Model, path: Path, limit: int | None = None) -> list[Path]:
    """Write a graph, and its weights beside it from `limit` bytes on (BESIDE if not given); every file written.

    A graph must not have been read from this very path if its weights lie beside it.
    """
    if weight_bytes(model) < (BESIDE if limit is None else limit):
        ir.save(with_weights_inside(model) if bytes_beside(model) else model, path)
        return [path]
    data = path.with_name(path.name + SUFFIX)
    ir.save(
        model,
        path,
        external_data=data.name,
        size_threshold_bytes=SMALLEST,
        alignment=PAGE,
        align_threshold=PAGE,
    )
    return [path, data] if data.exists() else [path]


def bytes_read(model: ir.Model) -> int:
    """Bytes of the constants that a step reads whole: all but the tables that it takes single rows from."""
    return sum(
        each.const_value.nbytes
        for each in model.graph.initializers.values()
        if each.const_value is not None and any(use.node.op_type not in LOOKUPS for use in each.uses())
    )


def bytes_beside(model: ir.Model) -> int:
    """Bytes of a graph's constants that lie outside its ONNX file."""
    tensors = (each.const_value for each in constants(model))
    return sum(each.nbytes for each in tensors if isinstance(each, ir.ExternalTensor))


def with_weights_inside(model: ir.Model) -> ir.Model:
    """A copy that holds every constant in memory, for tools that know no other place."""
    copy = model.clone()
    for value in constants(copy):
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = in_memory(value.const_value)
    return copy


def in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    """A constant that no longer needs its file."""
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)

"""The files that an ONNX graph keeps constants in, read from its protobuf; standard library only.

A graph is a tree of messages, each a row of fields: a number, a kind, and bytes. Only the messages that may hold a
tensor are walked, and weights are skipped without being read. Numbers of messages and fields are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import BinaryIO, Literal, TypeAlias

Message: TypeAlias = Literal["model", "graph", "node", "attribute", "sparse", "function", "training", "tensor", "entry"]
HOLDS: dict[Message, dict[int, Message]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {13: "entry"},
}
KEY, VALUE = 1, 2  # fields of an entry of a tensor's `external_data`
LOCATION = b"location"  # the key whose value is a file
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
LONGEST_VARINT = 10  # bytes


class UnreadableError(ValueError):
    """The bytes are not a protobuf message."""


def files_in(file: BinaryIO) -> set[str]:
    """Where a graph's tensors say their bytes lie, as they are written.

    Raises:
        UnreadableError: it speaks of such files but is not a readable graph.
    """
    if not file.seek(0, 2):
        return set()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(LOCATION) < 0:  # nearly every graph whose weights are inside
            return set()
        return set(locations(data))


def locations(data: mmap.mmap | bytes) -> Iterator[str]:
    """The location of every tensor that lies elsewhere."""
    waiting: list[tuple[Message, int, int]] = [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        entry: dict[int, bytes] = {}
        for field, first, last in fields(data, start, end):
            if message == "entry":
                entry[field] = bytes(data[first:last])
            elif (inner := HOLDS[message].get(field)) is not None:
                waiting.append((inner, first, last))
        if entry.get(KEY) == LOCATION:
            yield entry.get(VALUE, b"").decode("utf-8", "backslashreplace")


def fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, beginning and end of the fields of a message that are bytes."""
    while start < end:
        tag, start = varint(data, start, end)
        kind = tag & 7
        if kind == VARINT:
            _, start = varint(data, start, end)
        elif kind == BYTES:
            size, start = varint(data, start, end)
            if start + size > end:
                raise UnreadableError("a field is longer than what holds it")
            yield tag >> 3, start, start + size
            start += size
        elif kind in (FIXED32, FIXED64):
            start += 4 if kind == FIXED32 else 8
        else:
            raise UnreadableError(f"a field is of kind {kind}, which ONNX has not")


def varint(data: mmap.mmap | bytes, start: int, end: int) -> tuple[int, int]:
    """A whole number, 7 bits a byte, and where it ends."""
    value = 0
    for index in range(LONGEST_VARINT):
        if start + index >= end:
            break
        byte = data[start + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, start + index + 1
    raise UnreadableError("a number does not end")

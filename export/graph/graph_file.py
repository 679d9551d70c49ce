"""Read an ONNX file that may be damaged or hostile: every graph of this project is read from disk through this.

What is wrong is found before any weight is read, and said in one line. Weights outside the file stay there until they
are used. They may lie behind links, as in Hugging Face's cache, and have several names; they may not lie elsewhere.
"""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import onnx
import onnx_ir as ir

from export.runtime.errors import first_line

MOST_BYTES = 2**31  # protobuf's own end
MOST_NODES = 200_000  # functions expanded; a decoder of 126 layers has some 15,000
MOST_AXES = 64  # NumPy's own end
MOST_CHARACTERS = 200  # of a file's own text in a message
KEPT_IN = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
PACKED = {8: 1, 4: 2, 2: 4}  # numbers of so many bits that share one place of int32_data
CONFUSING = "a file of another kind, or one that was cut short or damaged"

Body = onnx.GraphProto | onnx.FunctionProto


class GraphFileError(ValueError):
    """A file that is no readable ONNX graph; the message names the file and what is wrong with it."""


def load_graph(path: Path) -> ir.Model:
    """The graph in a file, its nodes in an order in which they can run.

    Raises:
        GraphFileError: it is no whole ONNX file, or its weights are missing, too short, or outside of its folder.
    """
    try:
        proto = parsed(path)
        check_size(proto)
        for graph in chain.from_iterable(graphs_of(body) for body in (proto.graph, *proto.functions)):
            check_names(graph)
        for body in (proto.graph, *proto.functions):
            check_made(body, frozenset())
        kept_outside = {id(tensor) for tensor in proto.graph.initializer}
        for tensor in tensors_of(proto):
            settle(tensor, path, inside=id(tensor) not in kept_outside)
    except GraphFileError as error:
        raise GraphFileError(f"{path}: {error}") from error
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir fails in many ways on what no exporter writes
        raise GraphFileError(f"{path}: not a readable ONNX file ({first_line(error)})") from error
    for function in model.functions.values():
        order(function, path)
    order(model.graph, path)
    return model


def order(body: ir.Graph | ir.Function, path: Path) -> None:
    """Put the nodes into an order in which they can run.

    Raises:
        GraphFileError: there is none.
    """
    try:
        body.sort()
    except ValueError:
        raise GraphFileError(f"{path}: its nodes wait for each other in a circle, so none can run first") from None


def parsed(path: Path) -> onnx.ModelProto:
    """The message in a file.

    Raises:
        GraphFileError: the file cannot be read, or is something else.
    """
    check_file(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise GraphFileError(f"cannot be read ({error.strerror})") from error
    except Exception:  # protobuf's own, of a module without types
        raise GraphFileError(f"not a readable ONNX file ({CONFUSING})") from None
    if not proto.graph.node:
        raise GraphFileError(f"not a readable ONNX file: it holds no graph with nodes ({CONFUSING})")
    if not proto.graph.output:
        raise GraphFileError("the graph has no outputs")
    return proto


def check_file(path: Path) -> None:
    """Refuse what cannot be an ONNX file, from its kind and size alone.

    Raises:
        GraphFileError: it is a device, a pipe or a folder, empty, or larger than a message can be.
    """
    size = regular(path)
    if not size:
        raise GraphFileError("the file is empty")
    if size > MOST_BYTES:
        raise GraphFileError(
            f"the file has {size / 2**30:.1f} GiB; an ONNX file ends at 2 GiB, larger weights lie in a file beside it"
        )


def regular(path: Path) -> int:
    """Bytes of a plain file; devices and pipes, which never end, are not opened.

    Raises:
        GraphFileError: there is none.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise GraphFileError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(found.st_mode):
        raise GraphFileError("is no plain file; folders, devices and pipes hold no graph")
    return found.st_size


def graphs_of(body: Body) -> Iterator[Body]:
    """A graph or function, and every graph inside its nodes."""
    yield body
    for node in body.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_of(inner)


def nodes_of(body: Body) -> Iterator[onnx.NodeProto]:
    """Every node of a graph or function, those of inner graphs too."""
    for graph in graphs_of(body):
        yield from graph.node


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model.

    Raises:
        GraphFileError: one is sparse.
    """
    for body in (proto.graph, *proto.functions):
        for graph in graphs_of(body):
            if isinstance(graph, onnx.GraphProto):
                if graph.sparse_initializer:
                    raise GraphFileError("it holds sparse constants, which are not read; export it with dense ones")
                yield from graph.initializer
            for attribute in chain.from_iterable(node.attribute for node in graph.node):
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    raise GraphFileError("it holds sparse constants, which are not read; export it with dense ones")
                yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def check_size(proto: onnx.ModelProto) -> None:
    """Count nodes as if every function were written out where it is called: a few lines can stand for billions.

    Raises:
        GraphFileError: they are too many, or a function calls itself.
    """
    functions = {(each.domain, each.name): each for each in proto.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(body: Body, callers: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes_of(body):
            key = (node.domain, node.op_type)
            if key in callers:
                raise GraphFileError(f"its function {brief(node.op_type)} calls itself")
            if key in functions and key not in counts:
                counts[key] = count(functions[key], (*callers, key))
            total += counts.get(key, 1)
        return total

    try:
        total = count(proto.graph, ())
    except RecursionError:
        raise GraphFileError("its functions or inner graphs are nested too deeply") from None
    if total > MOST_NODES:
        shown = f"{total:,}" if total < 10**12 else f"more than {10**12:,}"
        raise GraphFileError(f"it has {shown} nodes with its functions written out; at most {MOST_NODES:,} are read")


def check_names(graph: Body) -> None:
    """Every value is made once: otherwise readers disagree on which of two is meant.

    Raises:
        GraphFileError: names the first that is made twice.
    """
    made = [name for node in graph.node for name in node.output if name]
    twice = repeated(made)
    if isinstance(graph, onnx.FunctionProto):
        twice = twice or repeated([*made, *graph.input])
    else:  # a constant may have the name of an input, for it is the input's default
        inputs, constants = ([each.name for each in values] for values in (graph.input, graph.initializer))
        outputs = repeated(each.name for each in graph.output)
        twice = twice or repeated([*made, *inputs]) or repeated([*made, *constants]) or outputs
    if twice is not None:
        raise GraphFileError(f"two of its values are called {brief(twice)}")


def check_made(graph: Body, around: frozenset[str]) -> None:
    """Every value that is read is made in the graph, or in one of those `around` it.

    Raises:
        GraphFileError: names the first that is not.
    """
    known = around | {name for node in graph.node for name in node.output}
    if isinstance(graph, onnx.FunctionProto):
        known, ends = known | {*graph.input}, list(graph.output)
    else:
        known |= {each.name for each in (*graph.input, *graph.initializer)}
        ends = [each.name for each in graph.output]
    read = [name for node in graph.node for name in node.input if name]
    missing = next((name for name in (*read, *ends) if name not in known), None)
    if missing is not None:
        raise GraphFileError(f"value {brief(missing)} is read, but nothing makes it")
    for attribute in chain.from_iterable(node.attribute for node in graph.node):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            check_made(inner, known)


def repeated(names: Iterable[str]) -> str | None:
    """The first name that stands twice."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def settle(tensor: onnx.TensorProto, path: Path, *, inside: bool) -> None:
    """Check that a constant is whole; where its numbers lie outside, say where as a full path, or bring them `inside`.

    Raises:
        GraphFileError: it is not.
    """
    try:
        kind = ir.DataType(tensor.data_type)
    except ValueError:
        kind = ir.DataType.UNDEFINED
    if kind is ir.DataType.UNDEFINED:
        raise GraphFileError(f"constant {brief(tensor.name)} is of the unknown number format {tensor.data_type}")
    if len(tensor.dims) > MOST_AXES:
        raise GraphFileError(f"constant {brief(tensor.name)} has {len(tensor.dims)} axes; at most {MOST_AXES} are read")
    if any(size < 0 for size in tensor.dims):
        raise GraphFileError(f"constant {brief(tensor.name)} has the shape {shape_of(tensor)}; sizes are from 0")
    size = math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if kind is ir.DataType.STRING:
            raise GraphFileError(f"constant {brief(tensor.name)} is text outside the file, which ONNX does not have")
        outside(tensor, path, -(-size * kind.bitwidth // 8), inside=inside)
        return
    if kind is not ir.DataType.STRING and tensor.HasField("raw_data"):
        found, wanted, unit = len(tensor.raw_data), -(-size * kind.bitwidth // 8), "bytes"
    else:
        of_one = 2 if kind in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else 1
        bits = 8 if kind is ir.DataType.STRING else kind.bitwidth
        found, wanted = sum(len(getattr(tensor, place)) for place in KEPT_IN), -(-size * of_one // PACKED.get(bits, 1))
        unit = "numbers"
    if found != wanted:
        raise GraphFileError(
            f"constant {brief(tensor.name)} has the shape {shape_of(tensor)}, which is {brief(wanted)} {unit}, "
            f"but {found} are there"
        )


def outside(tensor: onnx.TensorProto, path: Path, size: int, *, inside: bool) -> None:
    """The same of a constant whose `size` bytes lie in another file."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location, who = said.get("location", ""), f"constant {brief(tensor.name)}"
    file = beside(path, location, who)
    try:
        available = regular(file)
    except GraphFileError as error:
        raise GraphFileError(f"{who} lies in {brief(location)} beside the file: {error}") from None
    try:
        offset, length = int(said.get("offset") or 0), int(said.get("length") or size)
    except ValueError:
        offset, length = -1, size
    if offset < 0 or length < size or offset + size > available:
        raise GraphFileError(
            f"{who} needs {brief(size)} bytes of {brief(location)} from byte {brief(said.get('offset') or 0)} on "
            f"(length {brief(said.get('length') or 'not given')}), but that file has {available}"
        )
    if not inside:
        del tensor.external_data[:]
        for key, value in (("location", str(file)), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        return
    with file.open("rb") as content:
        content.seek(offset)
        tensor.raw_data = content.read(size)
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def beside(path: Path, location: str, who: str) -> Path:
    """The file of weights, its links followed.

    It has to lie in the folder of the graph's file, or in the folder where that file is once its links are followed:
    Hugging Face's cache has links in `snapshots` and the files in `blobs`. Whatever else a graph names is not opened.

    Raises:
        GraphFileError: it lies elsewhere.
    """
    if not location or "\0" in location:
        raise GraphFileError(f"{who} lies outside the file, which does not say where")
    folders = [Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent]
    file = Path(os.path.realpath(path.parent / location))
    plain = not Path(location).is_absolute() and ".." not in Path(location).parts
    if not plain or not any(file.is_relative_to(folder) for folder in folders):
        raise GraphFileError(
            f"{who} lies in {brief(location)}, outside the folder of the graph; put the weights beside it, for example "
            "with  hf download REPOSITORY --local-dir FOLDER"
        )
    return file


def shape_of(tensor: onnx.TensorProto) -> str:
    """A constant's shape."""
    return brief(f"({', '.join(map(str, tensor.dims))})")


def brief(value: object) -> str:
    """A value of a file as a message shows it: on one line, and never long."""
    text = str(value) if isinstance(value, int) or str(value).isprintable() else repr(str(value))
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."

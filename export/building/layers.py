"""The layers of a plan, read from the log in which TensorRT for RTX lists them: kernels, their operands, their sources.

The builder writes at VERBOSE level, where the profiling verbosity is DETAILED, what an engine inspector says of a
loaded plan; an inspector needs a GPU, the log does not. The text is no stable interface, so whatever it does not hold
is an error and never an empty list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

START, END = "Layers:", "I/O Tensors:"
LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>|.*?\})\](?:, Constants: "
    r"\[(?P<constants>|.*?\})\])?, Outputs: \[(?P<outputs>|.*?\})\], .*?Metadata: ?(?P<metadata>.*)"
)
# What runs on the host, where sizes are computed, and what orders streams.
NO_KERNELS = frozenset({"shape_call", "reshape", "cast", "ShapeHostToDevice", "signal", "wait"})
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: \w+, )?Dimensions: \[(?P<sizes>[-\d,]*)\], .*?Datatype: (?P<type>[^,}]*)"
)
NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1f\[]|$)")
PROFILE = re.compile(r" \[profile (\d+)\]")
PART = re.compile(r"_myl(\d+)_\d+$")  # ends the name of a layer: which of the compiled parts it is of


class LayersError(ValueError):
    """A log that does not list the layers of a plan; the message says what is missing."""


@dataclass(frozen=True)
class Operand:
    """A tensor that a layer reads or writes; a size that varies is -1."""

    name: str
    sizes: tuple[int, ...]
    type: str  # as TensorRT calls it: Float, Half, BFloat16, Int8, FP8, Int4, ...


@dataclass(frozen=True)
class Layer:
    """A layer of a plan: what it reads and writes, and the nodes of the ONNX graph that it computes.

    `is_kernel` is false of what runs on the host or orders streams. `part` is which compiled part it is of; -1: none.
    """

    name: str
    kind: str  # gemm, correlation, kgen, ...
    is_kernel: bool
    inputs: tuple[Operand, ...]
    constants: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    nodes: tuple[str, ...]
    part: int
    profile: int


def layers(log: str) -> tuple[Layer, ...]:
    """The layers that a builder's log lists, in the order in which they run, profile after profile.

    Raises:
        LayersError: the log lists none, is cut off within the list, or writes it in another way.
    """
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if line.strip() == START]
    if not starts:
        raise LayersError(f"the builder's log has no line {START!r}, so nothing shows how the plan computes")
    listed = lines[starts[-1] + 1 :]
    if END not in (line.strip() for line in listed):
        raise LayersError(f"the builder's log is cut off within the layers: no line {END!r} ends them")
    found = []
    for line in listed:
        if line.strip() == END:
            break
        if line.strip():
            found.append(layer(line))
    if not found:
        raise LayersError(f"the builder's log lists no layer between {START!r} and {END!r}")
    # Not every layer of a further profile has something in it that names the profile, but every part does.
    profiles = {each.part: each.profile for each in found if each.profile}
    return tuple(replace(each, profile=profiles.get(each.part, 0)) for each in found)


def layer(line: str) -> Layer:
    """One line of the list.

    Raises:
        LayersError: it is no layer.
    """
    match = LAYER.fullmatch(line.strip())
    if match is None:
        raise LayersError(f"the builder's log has a layer that cannot be read: {line.strip()[:120]}")
    part, profile = PART.search(match["name"]), PROFILE.search(line)
    return Layer(
        name=PROFILE.sub("", match["name"]),
        kind=match["kind"],
        is_kernel=match["kind"] not in NO_KERNELS,
        inputs=operands(match["inputs"]),
        constants=operands(match["constants"] or ""),
        outputs=operands(match["outputs"]),
        nodes=tuple(PROFILE.sub("", node) for node in NODE.findall(match["metadata"])),
        part=int(part[1]) if part else -1,
        profile=int(profile[1]) if profile else 0,
    )


def operands(text: str) -> tuple[Operand, ...]:
    """The tensors of one list."""
    return tuple(
        Operand(
            PROFILE.sub("", match["name"]),
            tuple(int(size) for size in match["sizes"].split(",") if size),
            match["type"].strip(),
        )
        for match in TENSOR.finditer(text)
    )

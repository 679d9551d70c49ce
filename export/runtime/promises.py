"""Whether the graphs of an engine take and give what its manifest says, found when they are opened.

Letters: R rows, T tokens of a picture, Z latent width, C feature width, H x W pixels. Sizes that may vary have a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .manifest import Manifest
from .signature import DecodeSignature, Port, Ports

FLOAT = "tensor(float)"  # the one type that ONNX Runtime and NumPy call differently
IMAGES = Port("uint8", ("batch", "height", "width", "channels"))
WIDEST = 2**16  # pixels of a side


class Value(Protocol):
    """An input or output as ONNX Runtime describes it; sizes that vary have a name or None."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Graph(Protocol):
    """An opened graph."""

    def get_inputs(self) -> Sequence[Value]:
        """What it takes."""

    def get_outputs(self) -> Sequence[Value]:
        """What it gives."""


def broken(manifest: Manifest, role: str, graph: Graph, begin: Graph | None = None) -> str | None:
    """The first promise that a graph of this role does not keep, in a sentence; None if it keeps all.

    `begin` is what runs before a decode graph, whose outputs that one may take.
    """
    inputs, outputs = PORTS[role](manifest)
    if begin is not None:
        inputs = inputs | {each.name: begun(each) for each in begin.get_outputs()}
    return (
        first_fault("input", inputs, graph.get_inputs())
        or first_fault("output", outputs, graph.get_outputs())
        or unfed(inputs, graph.get_inputs())
        or (SPECIAL[role](manifest, graph) if role in SPECIAL else None)
    )


def first_fault(word: str, ports: Ports, values: Sequence[Value]) -> str | None:
    """The first port that is missing or another one."""
    found = {each.name: each for each in values}
    for name, port in ports.items():
        value = found.get(name)
        if value is None:
            if port.needed:
                return f"has no {word} '{name}', which the manifest promises"
        elif value.type != type_of(port):
            return f"its {word} '{name}' is {value.type}; the manifest promises {type_of(port)}"
        elif not fits(port.sizes, value.shape):
            return f"its {word} '{name}' is {said(value.shape)}; the manifest promises {said(port.sizes)}"
    return None


def type_of(port: Port) -> str:
    """The type of a port as ONNX Runtime names it."""
    return FLOAT if port.kind == "float32" else f"tensor({port.kind})"


def begun(value: Value) -> Port:
    """An input of a decode graph that is an output of what runs before it, of any sizes."""
    kind = "float32" if value.type == FLOAT else value.type.removeprefix("tensor(").removesuffix(")")
    return Port(kind, ("any",) * len(value.shape))


def unfed(ports: Ports, values: Sequence[Value]) -> str | None:
    """An input that nobody knows."""
    for each in values:
        if each.name not in ports:
            return f"takes an input '{each.name[:100]}', which nothing feeds"
    return None


def fits(sizes: Sequence[int | str], found: Sequence[int | str | None]) -> bool:
    """Whether a shape may be the one that is wanted; a graph need not say it at all."""
    if not found:
        return True
    return len(sizes) == len(found) and all(
        isinstance(want, str) or not isinstance(have, int) or want == have
        for want, have in zip(sizes, found, strict=True)
    )


def said(sizes: Sequence[int | str | None]) -> str:
    """A shape in a message."""
    return "(" + ", ".join("any" if not isinstance(each, int) else str(each) for each in sizes) + ")"


def decode_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """One step, with its cache and what it chooses by."""
    signature = DecodeSignature.of(manifest)
    return signature.inputs | signature.spare, signature.outputs


def picture_port(manifest: Manifest) -> Port:
    """Tokens of whole pictures (R, T)."""
    return Port("int64", ("batch", manifest.shape.length))


def begin_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """What is computed once before the steps."""
    shape = manifest.shape
    inputs = {"labels": Port("int64", ("batch",), needed=False)}
    if shape.text:
        inputs["features"] = Port("float32", ("batch", "text", shape.text.width), needed=False)
    return inputs, {}


def scales_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """Tokens to what a next-scale model reads."""
    latents = Port("float32", ("batch", "tokens", manifest.shape.latent_width))
    return {"tokens": picture_port(manifest)}, {"latents": latents}


def decoder_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """Tokens to pictures."""
    pixels = Port("float32", IMAGES.sizes, needed=False)
    return {"tokens": picture_port(manifest)}, {"images": IMAGES, "pixels": pixels}


def encoder_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """Pictures to tokens."""
    return {"images": IMAGES}, {"tokens": picture_port(manifest)}


def generate_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """All in one."""
    shape = manifest.shape
    inputs = {"labels": Port("int64", ("batch",)), "seed": Port("int64")}
    if shape.text:
        inputs["features"] = Port("float32", ("batch", shape.text.length, shape.text.width))
    return inputs, {"tokens": picture_port(manifest), "images": IMAGES}


PORTS = {
    "decode": decode_ports,
    "begin": begin_ports,
    "scales": scales_ports,
    "image_decoder": decoder_ports,
    "image_encoder": encoder_ports,
    "generate": generate_ports,
}


def batch_fault(manifest: Manifest, graph: Graph) -> str | None:
    """A number of rows that is fixed in the graph alone, or in the manifest alone."""
    sizes = next(each.shape for each in graph.get_inputs() if each.name == "tokens")
    rows = sizes[0] if sizes else None
    fixed = rows if isinstance(rows, int) else 0
    if fixed == manifest.fixed_batch:
        return None
    words = {each: f"{each} rows" if each else "any number of rows" for each in (fixed, manifest.fixed_batch)}
    return f"takes {words[fixed]}; fixed_batch of the manifest says {words[manifest.fixed_batch]}"


def picture_fault(manifest: Manifest, graph: Graph) -> str | None:
    """Pictures of no size."""
    sizes = next(each.shape for each in graph.get_outputs() if each.name == "images")
    if len(sizes) == 4 and all(isinstance(each, int) and 0 < each <= WIDEST for each in sizes[1:]):
        return None
    return f"its output 'images' is {said(sizes)}; height, width and channels have to be known"


def begun_fault(manifest: Manifest, graph: Graph) -> str | None:
    """Outputs whose size nobody knows before they are computed."""
    for each in graph.get_outputs():
        if not each.shape or not all(isinstance(size, int) for size in each.shape[1:]):
            return (
                f"its output '{each.name[:100]}' is {said(each.shape)}; all sizes but that of the rows have to be known"
            )
    return None


SPECIAL = {"decode": batch_fault, "image_decoder": picture_fault, "begin": begun_fault}

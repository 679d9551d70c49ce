"""Whether the graphs of an engine take and give what its manifest says, found when they are opened.

Letters: R rows, S positions of a call, T tokens of a picture, O logits of a position, K key/value heads, P cached
positions, L length of a cache, d head width, Z latent width, C feature width. None stands for a size that may vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .manifest import Manifest

FLOAT, INT64, INT32, BOOL, BYTE = (f"tensor({name})" for name in ("float", "int64", "int32", "bool", "uint8"))
CACHES = {"float32": FLOAT, "int8": "tensor(int8)"}
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


@dataclass(frozen=True)
class Port:
    """An input or output that the runtime binds."""

    kind: str
    sizes: tuple[int | None, ...]
    needed: bool = True


Ports = dict[str, Port]


def broken(manifest: Manifest, role: str, graph: Graph, begin: Graph | None = None) -> str | None:
    """The first promise that a graph of this role does not keep, in a sentence; None if it keeps all.

    `begin` is what runs before a decode graph, whose outputs that one may take.
    """
    inputs, outputs = PORTS[role](manifest)
    if begin is not None:
        inputs = inputs | {each.name: Port(each.type, (None,) * len(each.shape)) for each in begin.get_outputs()}
    return (
        first_fault("input", inputs, graph.get_inputs())
        or first_fault("output", outputs, graph.get_outputs())
        or unfed(inputs, graph.get_inputs())
        or SPECIAL.get(role, lambda manifest, graph: None)(manifest, graph)
    )


def first_fault(word: str, ports: Ports, values: Sequence[Value]) -> str | None:
    """The first port that is missing or another one."""
    found = {each.name: each for each in values}
    for name, port in ports.items():
        value = found.get(name)
        if value is None:
            if port.needed:
                return f"has no {word} '{name}', which the manifest promises"
        elif value.type != port.kind:
            return f"its {word} '{name}' is {value.type}; the manifest promises {port.kind}"
        elif not fits(port.sizes, value.shape):
            return f"its {word} '{name}' is {said(value.shape)}; the manifest promises {said(port.sizes)}"
    return None


def unfed(ports: Ports, values: Sequence[Value]) -> str | None:
    """An input that nobody knows."""
    for each in values:
        if each.name not in ports:
            return f"takes an input '{each.name[:100]}', which nothing feeds"
    return None


def fits(sizes: Sequence[int | None], found: Sequence[int | str | None]) -> bool:
    """Whether a shape may be the one that is wanted; a graph need not say it at all."""
    if not found:
        return True
    return len(sizes) == len(found) and all(
        want is None or not isinstance(have, int) or want == have for want, have in zip(sizes, found, strict=True)
    )


def said(sizes: Sequence[int | str | None]) -> str:
    """A shape in a message."""
    return "(" + ", ".join("any" if not isinstance(each, int) else str(each) for each in sizes) + ")"


def decode_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """One step, with its cache and what it chooses by."""
    shape, masked = manifest.shape, manifest.shape.order == "masked"
    tokens = Port(INT64, (None, shape.length if masked else None))
    if shape.order == "next-scale":
        tokens = Port(FLOAT, (None, None, shape.latent_width))
    inputs = {"tokens": tokens}
    if shape.labelled:
        inputs["labels"] = Port(INT64, (None,), needed=False)
    if shape.text:
        inputs["features"] = Port(FLOAT, (None, None, shape.text.width), needed=False)
        inputs["valid"] = Port(BOOL, (None, shape.text.length), needed=False)
    if masked:
        inputs["positions"] = Port(INT64, (None,), needed=False)
    if manifest.cache == "shared":
        inputs |= {"seqlens_k": Port(INT32, (None,)), "total_sequence_length": Port(INT32, ())}
    if manifest.cache == "static":
        inputs["position"] = Port(INT64, ())
    if manifest.sampling:
        inputs |= {
            "noise": Port(FLOAT, (None, None, None)),
            "guidance": Port(FLOAT, ()),
            "temperature": Port(FLOAT, ()),
            "top_k": Port(INT64, (1,), needed=manifest.sampler.top_k > 0),
            "top_p": Port(FLOAT, (), needed=manifest.sampler.top_p < 1),
        }
    outputs = {"logits": Port(FLOAT, (None, None, shape.predicted))}
    if manifest.cache != "none":
        reach = None if manifest.cache == "growing" else shape.reach
        for layer, heads in enumerate(manifest.kv_heads):
            for part in ("key", "value"):
                port = Port(CACHES[manifest.cache_format], (None, heads, reach, manifest.head_width))
                inputs[f"past.{layer}.{part}"] = outputs[f"present.{layer}.{part}"] = port
    if manifest.sampling:
        outputs["drawn"] = Port(INT64, (None, None))
        if masked and manifest.sampler.reveal != "halton":
            outputs["sureness"] = Port(FLOAT, (None, None))
    return inputs, outputs


def begin_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """What is computed once before the steps."""
    shape = manifest.shape
    inputs = {"labels": Port(INT64, (None,), needed=False)}
    if shape.text:
        inputs["features"] = Port(FLOAT, (None, None, shape.text.width), needed=False)
    return inputs, {}


def scales_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """Tokens to what a next-scale model reads."""
    shape = manifest.shape
    return {"tokens": Port(INT64, (None, shape.length))}, {"latents": Port(FLOAT, (None, None, shape.latent_width))}


def decoder_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """Tokens to pictures."""
    pixels = Port(FLOAT, (None, None, None, None), needed=False)
    outputs = {"images": Port(BYTE, (None, None, None, None)), "pixels": pixels}
    return {"tokens": Port(INT64, (None, manifest.shape.length))}, outputs


def encoder_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """Pictures to tokens."""
    images = Port(BYTE, (None, None, None, None))
    return {"images": images}, {"tokens": Port(INT64, (None, manifest.shape.length))}


def generate_ports(manifest: Manifest) -> tuple[Ports, Ports]:
    """All in one."""
    shape = manifest.shape
    inputs = {"labels": Port(INT64, (None,)), "seed": Port(INT64, ())}
    if shape.text:
        inputs["features"] = Port(FLOAT, (None, shape.text.length, shape.text.width))
    images = Port(BYTE, (None, None, None, None))
    return inputs, {"tokens": Port(INT64, (None, shape.length)), "images": images}


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

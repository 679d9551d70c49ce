"""What a decode graph takes and gives: names, types, shapes and caches, once for all that write, check and run it.

Letters: R rows ("batch"), S tokens of a call, P cached positions ("past"), L length of a cache, K key/value heads, d
head width, O logits of a position, B pictures, n positions of a choice, V logits that are drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuts import CUTS
from .manifest import Cache, Manifest
from .sampling import Sampler
from .shape import Shape

SEQLENS, TOTAL = "seqlens_k", "total_sequence_length"  # how far a shared cache is filled after the call
POSITION = "position"  # where the first token of a call goes in a static cache
POSITIONS = "positions"  # of which a masked model's logits are wanted
CODES = {"int8": ("int8", 1), "int4": ("uint8", 2)}  # formats of quantized caches: their type, and codes in one of it


@dataclass(frozen=True)
class Port:
    """An input or output: the name of its NumPy type, and its sizes; one that varies has a name.

    A graph may lack a port that is not `needed`.
    """

    kind: str
    sizes: tuple[int | str, ...] = ()
    needed: bool = True

    def bound(self, **sizes: int) -> tuple[int, ...]:
        """The shape where the sizes that vary are these."""
        return tuple(sizes[each] if isinstance(each, str) else each for each in self.sizes)

    def zeros(self, **sizes: int) -> NDArray[Any]:
        """Zeros of this type and shape."""
        return np.zeros(self.bound(**sizes), dtype=self.kind)


Ports = dict[str, Port]

FED_BY_CACHE: dict[Cache, Ports] = {
    "none": {},
    "growing": {},
    "shared": {SEQLENS: Port("int32", ("batch",)), TOTAL: Port("int32")},
    "static": {POSITION: Port("int64")},
}
SAMPLING: Ports = {
    "noise": Port("float32", ("pictures", "chosen", "drawn_from")),  # (B, n, V)
    "guidance": Port("float32"),
    "temperature": Port("float32"),
    **{cut.name: Port(cut.kind, cut.sizes) for cut in CUTS},
}
LOGITS, TOTALS = "logits", "total"
CHOSEN: Ports = {
    "drawn": Port("int64", ("pictures", "chosen")),
    "sureness": Port("float32", ("pictures", "chosen")),
    TOTALS: Port("float32", ("batch", "chosen"), needed=False),  # sums of the logits, which tell whether one is NaN
}


@dataclass(frozen=True)
class DecodeSignature:
    """Inputs and outputs of a decode graph in the order in which they are checked.

    Inputs that are not `needed` are those that a graph may leave to what runs before it, or has as constants. `spare`
    are inputs that no export writes, which the runtime feeds nevertheless: cuts that the sampler does not make.
    """

    inputs: Ports
    outputs: Ports
    spare: Ports = field(default_factory=dict)

    @classmethod
    def traced(cls, shape: Shape, kv_heads: Sequence[int], head_width: int) -> DecodeSignature:
        """That of a graph as it is exported, before its cache gets its form; a masked model has none."""
        caches = {} if shape.drawing.masks else cache_ports(kv_heads, head_width, "past", "float32")
        return with_caches(step_ports(shape), {"logits": logits_port(shape)}, caches)

    @classmethod
    def of(cls, manifest: Manifest) -> DecodeSignature:
        """That of an engine's decode graph."""
        shape = manifest.shape
        inputs = step_ports(shape, whole_text=manifest.cache == "static") | FED_BY_CACHE[manifest.cache]
        caches, spare, chosen = {}, {}, {}
        if manifest.sampling:
            inputs |= choice_ports(manifest.sampler)
            spare = {name: Port(port.kind, port.sizes, False) for name, port in SAMPLING.items() if name not in inputs}
            chosen = chosen_ports(shape, manifest.sampler)
        if manifest.cache != "none":
            length = "past" if manifest.cache == "growing" else shape.reach
            caches = cache_ports(manifest.kv_heads, manifest.head_width, length, manifest.cache_format)
        made = with_caches(inputs, {"logits": logits_port(shape)}, caches)
        return cls(made.inputs, made.outputs | chosen, spare)

    @property
    def caches(self) -> Ports:
        """Keys and values of each layer (R, K, P or L, d), by the names `0.key`, `0.value`, ..."""
        past = "past."
        return {name.removeprefix(past): port for name, port in self.inputs.items() if name.startswith(past)}

    @property
    def tokens_of_a_step(self) -> int:
        """One behind a cache, all of a picture where there is none."""
        size = self.inputs["tokens"].sizes[1]
        return 1 if isinstance(size, str) else size

    def cache_bytes(self, length: int) -> int:
        """What keys and values of one row take where so many positions are cached."""
        ports = self.caches.values()
        return sum(prod(port.bound(batch=1, past=length)) * np.dtype(port.kind).itemsize for port in ports)


def step_ports(shape: Shape, whole_text: bool = False) -> Ports:
    """What a step reads, its cache and what it chooses by apart; `whole_text` where each call gets all of a text."""
    masked = shape.drawing.masks
    ports = {"tokens": Port("int64", ("batch", shape.length if masked else "tokens"))}
    if shape.drawing.scaled:
        ports["tokens"] = Port("float32", ("batch", "tokens", shape.latent_width))
    if shape.labelled:
        ports["labels"] = Port("int64", ("batch",), needed=False)
    if masked:
        ports[POSITIONS] = Port("int64", ("positions",), needed=False)
    if shape.text:
        # With a growing cache a causal model reads its text in the first call; afterwards the text's length is 0.
        length = "text" if shape.drawing.sequential and not whole_text else shape.text.length
        ports["features"] = Port("float32", ("batch", length, shape.text.width), needed=False)
        if shape.drawing.sequential:
            ports["valid"] = Port("bool", ("batch", shape.text.length), needed=False)
    return ports


def logits_port(shape: Shape) -> Port:
    """Logits (R, S, O); of a masked model those of the positions that are asked for."""
    return Port("float32", ("batch", "tokens", shape.predicted))


def cache_ports(kv_heads: Sequence[int], head_width: int, length: int | str, held: str) -> Ports:
    """Keys and values of each layer (R, K, P or L, d); of int4 they are (R, K, P or L, d / 2), two in a byte."""
    kind, together = CODES.get(held, (held, 1))
    width = head_width // together
    ports = {layer: Port(kind, ("batch", heads, length, width)) for layer, heads in enumerate(kv_heads)}
    return {f"{layer}.{part}": port for layer, port in ports.items() for part in ("key", "value")}


def with_caches(inputs: Ports, outputs: Ports, caches: Ports) -> DecodeSignature:
    """The past among the inputs, the present among the outputs."""
    past, present = ({f"{side}.{name}": port for name, port in caches.items()} for side in ("past", "present"))
    return DecodeSignature(inputs | past, outputs | present)


def choice_ports(sampler: Sampler) -> Ports:
    """What a graph reads that samples as a sampler does."""
    idle = {cut.name for cut in CUTS} - sampler.cuts.keys()
    return {name: port for name, port in SAMPLING.items() if name not in idle}


def chosen_ports(shape: Shape, sampler: Sampler) -> Ports:
    """What it gives; how sure the tokens are only where the surest stay."""
    surest = shape.drawing.masks and sampler.reveal != "halton"
    return {name: port for name, port in CHOSEN.items() if surest or name != "sureness"}

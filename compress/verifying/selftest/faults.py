"""Faults that are planted on purpose into sound engines, each with the places that `bisect` may name for it.

Every one is a mistake that has been made in ports, exports and quantizations of image-token transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compress.verifying.selftest.bases import CLASSES, HEAD_WIDTH, VOCABULARY
from compress.verifying.selftest.graph_edits import (
    Array,
    Edit,
    added,
    attribute,
    behind,
    columns,
    every_weight,
    exchanged,
    first_rows,
    joined,
    number,
    operator,
    output_behind,
    outputs_exchanged,
    reads,
    rows,
    scaled,
    shifted,
    unwritten,
    weight,
    weight_read,
)
from export.runtime.manifest import DECODE, GENERATE, IMAGE_DECODER, IMAGE_ENCODER

NULL_CLASS = VOCABULARY + CLASSES  # rows of the embedding: tokens, classes, no class
MASK = VOCABULARY  # of a masked model, whose classes stand behind it
LEVEL = 2  # rows of the next-scale model's positions: 1 of 1 x 1, 4 of 2 x 2, 16 of 4 x 4
EMBEDDING = "embedding.weight"
MIDDLE = "blocks.1"
DOWN, QKV, OUT = f"{MIDDLE}.ffn.down.weight", f"{MIDDLE}.attention.qkv.weight", f"{MIDDLE}.attention.output.weight"
EMBEDDED, DECODER, ENCODER, SINGLE_FILE = "embedding", "image decoder", "image encoder", "single file"
LAST = "autoencoder.decoder.head"  # the image decoder's last convolution


@dataclass(frozen=True)
class Fault:
    """A fault: its name, the sound engine it is planted into, edits of its files and settings of its manifest.

    `places` are what `bisect` may name. A fault that is not `above` the floor differs from the sound engine by less
    than the two may differ by rounding, so that it need not be noticed. With `flat` the reference has a head of zeros.
    """

    name: str
    base: str
    places: tuple[str, ...]
    edits: Mapping[str, Edit] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    above: bool = True
    flat: bool = False


def of_class(number: int) -> int:
    """The embedding's row of a class, where tokens stand before classes."""
    return VOCABULARY + number


def of_decode(name: str, base: str, place: str | tuple[str, ...], *edits: Edit, **changes: Any) -> Fault:
    """A fault of the graph that makes a step."""
    return in_file(DECODE, name, base, place, *edits, **changes)


def in_file(file: str, name: str, base: str, place: str | tuple[str, ...], *edits: Edit, **changes: Any) -> Fault:
    """A fault of one file."""
    places = (place,) if isinstance(place, str) else place
    return Fault(name, base, places, {file: joined(*edits)}, **changes)


def of_manifest(name: str, base: str, **settings: Any) -> Fault:
    """A fault of the sampler's settings in the manifest."""
    return Fault(name, base, ("sampler",), settings=settings)


def never(token: int) -> Array:
    """A disturbance (1, 1, V) that never lets a token be drawn."""
    made = np.zeros((1, 1, VOCABULARY), dtype=np.float32)
    made[..., token] = -1e9
    return made


def bias(token: int, value: float) -> Array:
    """A bias (V,) of one token."""
    made = np.zeros(VOCABULARY, dtype=np.float32)
    made[token] = value
    return made


def noisy(array: Array) -> Array:
    """Half a percent of noise on every number."""
    generator = np.random.Generator(np.random.Philox(array.size))
    return array * (1 + 0.005 * generator.standard_normal(array.shape))


def rolled(first: int, end: int) -> dict[int, int]:
    """Rows `first` to `end` read as the next of them."""
    return {row: first + (row + 1 - first) % (end - first) for row in range(first, end)}


def levels_swapped(positions: Array) -> Array:
    """The embeddings (D,) of two scales, which the table of positions (T, D) has inside, change places."""
    apart = np.linspace(-0.2, 0.2, positions.shape[1], dtype=positions.dtype)
    positions[1:5] += apart
    positions[5:] -= apart
    return positions


def cached(layer: int) -> tuple[str, ...]:
    """The places of a fault of a layer's cache."""
    return "cache", f"cache of blocks.{layer}"


def inverted(name: str) -> Edit:
    """Pictures are negatives."""
    return output_behind(name, "Sub", number(255, "uint8"), first=True)


BLUE_FIRST = np.array([2, 1, 0])

SAMPLER = (
    of_decode("greedy", "fused", "sampler", behind("noise", "Mul", number(0))),
    of_decode("noise halved", "fused", "sampler", behind("noise", "Mul", number(0.5))),
    of_decode("a token never drawn", "fused", "sampler", behind("noise", "Add", never(3))),
    of_decode("guidance dropped", "fused", "sampler", behind("guidance", "Mul", number(0.5))),
    of_decode(
        "guidance from the wrong base", "fused", "sampler", reads("/sampling/guided", 0, "/sampling/given_output")
    ),
    of_decode("temperature ignored", "fused", "sampler", behind("temperature", "Div", number(0.9))),
    of_decode("top-k of another k", "fused", "sampler", behind("top_k", "Sub", np.array([4]))),
    of_decode("noise halved", "int8", "sampler", behind("noise", "Mul", number(0.5))),
    of_decode("noise halved", "next-scale", "sampler", behind("noise", "Mul", number(0.5))),
    of_decode("least sure first", "masked", "sampler", output_behind("sureness", "Neg")),
    of_manifest("cfg_scale 1 in the manifest", "plain", cfg_scale=1.0),
    of_manifest("temperature 1 in the manifest", "plain", temperature=1.0),
    of_manifest("top_k 0 in the manifest", "fused", top_k=0),
    of_manifest("top_p 0.8 in the manifest", "plain", top_p=0.8),
    of_manifest("other steps in the manifest", "masked", steps=3),
    of_manifest("other order of revealing", "masked", reveal="halton"),
)
CACHE = (
    of_decode("past keys shifted by one", "plain", cached(1), shifted("past.1.key")),
    of_decode("another layer's cached keys", "plain", (*cached(0), *cached(1)), exchanged("past.0.key", "past.1.key")),
    of_decode(
        "another layer's cached values", "plain", (*cached(1), *cached(2)), exchanged("past.1.value", "past.2.value")
    ),
    of_decode("only sixteen rows are cached", "plain", cached(1), first_rows("past.1.key", 16)),
    of_decode("stale cache", "plain", cached(1), unwritten("present.1.key", "present.1.value")),
    of_decode("past values halved", "fused", cached(1), behind("past.1.value", "Mul", number(0.5))),
    of_decode("past keys halved", "int8", cached(1), behind("past.1.key", "Mul", number(0.5))),
    of_decode(
        "another layer's cached keys",
        "next-scale",
        ("blocks.0", *cached(0), *cached(1)),
        exchanged("past.0.key", "past.1.key"),
    ),
)
BLOCKS = (
    of_decode("5 % wrong scale in one product", "fused", MIDDLE, weight(DOWN, scaled(1.05))),
    of_decode("queries of two heads swapped", "fused", MIDDLE, weight(QKV, columns({0: 2, 2: 0}, HEAD_WIDTH))),
    of_decode(
        "outputs of two heads swapped",
        "fused",
        MIDDLE,
        weight(OUT, lambda matrix: columns({0: 1, 1: 0}, HEAD_WIDTH)(matrix.T).T),
    ),
    of_decode(
        "rotary positions off by one",
        "fused",
        "blocks.0",
        *(weight(name, lambda table: np.roll(table, -1, 0)) for name in ("cosine", "sine")),
    ),
    of_decode("rotary row of the prefix mended", "fused", "blocks.0", weight("cosine", added(0, 1.0))),
    of_decode("rotary turns the other way", "fused", "blocks.0", weight("sine", scaled(-1))),
    of_decode(
        "attention scale wrong", "fused", MIDDLE, attribute("/blocks/1/attention/GroupQueryAttention", scale=0.2)
    ),
    of_decode(
        "causal mask leaks",
        "plain",
        MIDDLE,
        behind("/LessOrEqual_output_0", "Or", np.array(True), by="/blocks/1/attention/Attention"),
    ),
    of_decode(
        "residual dropped", "plain", MIDDLE, behind("/blocks/0/Add_2_output_0", "Mul", number(0), by="/blocks/1/Add")
    ),
    of_decode("halves of the gated unit swapped", "fused", MIDDLE, outputs_exchanged("/blocks/1/ffn/gate_up/Split")),
    of_decode(
        "norm epsilon 1e-2",
        "fused",
        "blocks.0",
        attribute("/blocks/0/attention_norm/RMSNormalization", epsilon=1e-2),
    ),
    of_decode("relu for silu", "fused", MIDDLE, operator("/blocks/1/ffn/QuickGelu", "Relu")),
    of_decode("quick gelu for silu", "fused", MIDDLE, attribute("/blocks/1/ffn/QuickGelu", alpha=1.702)),
    of_decode("a weight is NaN", "fused", MIDDLE, weight(DOWN, added((0, 0), np.nan))),
    of_decode("0.5 % weight noise", "fused", EMBEDDED, every_weight(noisy)),
    of_decode("shift and scale swapped", "masked", MIDDLE, outputs_exchanged("/Split_2")),
    of_decode("queries of two heads swapped", "masked", MIDDLE, weight(QKV, columns({0: 2, 2: 0}, HEAD_WIDTH))),
    of_decode("branch not gated", "next-scale", MIDDLE, reads("/blocks/1/Mul_4", 0, "/blocks/1/Add_output_0")),
)
QUANTIZED = (
    of_decode("0.1 % wrong scale", "int8", MIDDLE, weight(f"{DOWN}_scale", scaled(1.001)), above=False),
    of_decode("an int8 scale doubled", "int8", MIDDLE, weight(f"{DOWN}_scale", scaled(2.0))),
    of_decode(
        "activation cut off at a quarter",
        "int8",
        MIDDLE,
        weight(f"{MIDDLE}.ffn.down.activation_scale", scaled(0.25)),
    ),
    of_decode("zero point wrong in one channel", "int8", MIDDLE, weight(f"{DOWN}_zero_point", added(5, 60))),
    of_decode("queries of two heads swapped", "int8", MIDDLE, weight(QKV, columns({0: 2, 2: 0}, HEAD_WIDTH))),
    of_decode("halves of the gated unit swapped", "int8", MIDDLE, outputs_exchanged("/blocks/1/ffn/gate_up/Split")),
)
EMBEDDINGS = (
    of_decode(
        "two classes swapped",
        "fused",
        ("class 2", "class 5"),
        weight(EMBEDDING, rows({of_class(2): of_class(5), of_class(5): of_class(2)})),
    ),
    of_decode("one class is another", "fused", "class 7", weight(EMBEDDING, rows({of_class(7): of_class(8)}))),
    of_decode("one class is another", "masked", "class 4", weight(EMBEDDING, rows({MASK + 1 + 4: MASK + 1 + 9}))),
    of_decode("one class is another", "int8", "class 3", weight(EMBEDDING, rows({of_class(3): of_class(6)}))),
    of_decode("one class is another", "next-scale", "class 1", weight(EMBEDDING, rows({1: 2}))),
    of_decode("no class is class 0", "fused", "null class", weight(EMBEDDING, rows({NULL_CLASS: of_class(0)}))),
    of_decode("no class is class 0", "int8", "null class", weight(EMBEDDING, rows({NULL_CLASS: of_class(0)}))),
    of_decode("one token's embedding is zero", "fused", "token 5", weight(EMBEDDING, scaled(0, 5))),
    of_decode("one token is another", "int8", "token 9", weight(EMBEDDING, rows({9: 10}))),
    of_decode("embedding of the mask is zero", "masked", "mask token", weight(EMBEDDING, scaled(0, MASK))),
    of_decode(
        "learned positions rolled", "masked", EMBEDDED, weight_read("/Add", 1, lambda table: np.roll(table, -1, -2))
    ),
    of_decode("one position is zero", "masked", "position 5", weight_read("/Add", 1, scaled(0, (..., 5, slice(None))))),
    of_decode("embeddings of two scales swapped", "next-scale", EMBEDDED, weight("position.weight", levels_swapped)),
    of_decode("positions of one scale rolled", "next-scale", EMBEDDED, weight("position.weight", rows(rolled(1, 5)))),
)
HEAD = (
    of_decode("two tokens swapped in the head", "fused", "head", weight("head.weight", columns({3: 4, 4: 3}))),
    of_decode("head's bias of one token", "fused", "head", output_behind("logits", "Add", bias(6, 0.3))),
    of_decode("head's bias of one token", "int8", "head", output_behind("logits", "Add", bias(6, 0.3))),
    # Of tokens so rare that no probability moves: the largest difference of a logit alone shows it.
    of_decode("smallest logits cut off", "next-scale", "head", output_behind("logits", "Max", number(-5.5))),
    of_decode("small logits cut off", "next-scale", "head", output_behind("logits", "Max", number(-4.0))),
    of_decode("final norm scaled", "fused", "norm", weight("norm.weight", scaled(1.05))),
    of_decode("final shift and scale swapped", "masked", ("norm", "head"), outputs_exchanged("/Split_4")),
    Fault(
        "other layers, head of zeros",
        "fused",
        (MIDDLE,),
        {DECODE: joined(weight("head.weight", scaled(0)), weight(DOWN, scaled(-1)))},
        flat=True,
    ),
)
PICTURES = (
    in_file(IMAGE_DECODER, "images inverted", "plain", DECODER, inverted("images")),
    in_file(
        IMAGE_DECODER, "red and blue swapped", "fused", DECODER, output_behind("images", "Gather", BLUE_FIRST, axis=3)
    ),
    in_file(IMAGE_DECODER, "half the range of colours", "fused", DECODER, behind("pixels", "Min", number(0.5))),
    in_file(IMAGE_DECODER, "colours not clamped", "plain", DECODER, reads("/Mul_2", 0, "pixels")),
    in_file(IMAGE_DECODER, "bias of one colour", "next-scale", DECODER, weight(f"{LAST}.bias", added(0, 0.2))),
    in_file(IMAGE_DECODER, "last convolution scaled", "masked", DECODER, weight(f"{LAST}.weight", scaled(1.05))),
    in_file(IMAGE_DECODER, "last convolution 0.1 % off", "fused", DECODER, weight(f"{LAST}.weight", scaled(1.001))),
    in_file(
        IMAGE_DECODER,
        "one code is zero",
        "int8",
        DECODER,
        weight("autoencoder.quantizer.embedding.weight", scaled(0, 4)),
    ),
    in_file(
        IMAGE_ENCODER,
        "pictures read inverted",
        "plain",
        ENCODER,
        behind("images", "Sub", number(255, "uint8"), first=True),
    ),
    in_file(IMAGE_ENCODER, "pictures read blue first", "int8", ENCODER, behind("images", "Gather", BLUE_FIRST, axis=3)),
    in_file(
        IMAGE_ENCODER,
        "bias of the first convolution",
        "next-scale",
        ENCODER,
        weight("autoencoder.encoder.stem.bias", added(0, 1.0)),
    ),
    in_file(GENERATE, "images inverted", "single file", SINGLE_FILE, inverted("images")),
    in_file(GENERATE, "another seed", "single file", SINGLE_FILE, behind("seed", "Add", number(1, "int64"))),
    in_file(GENERATE, "classes off by one", "single file", SINGLE_FILE, behind("labels", "Add", number(1, "int64"))),
)
FAULTS = (*SAMPLER, *CACHE, *BLOCKS, *QUANTIZED, *EMBEDDINGS, *HEAD, *PICTURES)

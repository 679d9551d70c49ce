"""A foreign causal decoder, a graph with Hugging Face's signature, becomes a decode graph of this project.

Letters: B batch, S our tokens of a call, N the model's ids of the same call, P cached positions, L ids of a prompt,
T tokens of a picture, V image tokens, C classes, K key/value heads, d head width.

The foreign graph takes `input_ids` (B, N), `attention_mask` (B, P + N), perhaps `position_ids` (B, N), and
`past_key_values.{i}.key`, `.value` (B, K, P, d); it gives `logits` over its whole vocabulary and `present.{i}.key`,
`.value`. The decode graph takes `tokens` (B, S) and `past.{i}.key`, `.value`, and gives `logits` (B, S, V) over image
tokens alone. Ids, mask and positions are computed inside, from tables and from the cache's length: a class becomes its
prompt, the last token of a row is followed by what the model was taught to read there. Only the rows of the embedding
and the columns of the head that can be reached are kept. A graph without a cache reads all tokens at every step.

A merged decoder of optimum, which has one branch for an empty cache and one for the rest, gets `use_cache_branch` from
the cache's length. A cache in another number format is cast on its way in and out, which loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from export.foreign.call import Call
from export.foreign.folding import Folding
from export.foreign.signature import (
    BRANCH,
    CACHED,
    FLOAT,
    HALVES,
    IDS,
    INT64,
    MASK,
    POSITIONS,
    AdoptionError,
    Signature,
    cache_shape,
    signature,
)
from export.foreign.vocabulary import ending, restrict_embedding, restrict_head
from export.foreign.writing import Writing
from export.graph.builder import Builder, drop_unused_initializers
from export.graph.rounding import ROUNDING
from export.tracing.trace import tidy

OLDEST_OPSET = 15  # the first whose Shape can take a part of a shape
OLDEST_IR = 4  # the first whose constants need not be listed as inputs
OWN_NAMES = re.compile(r"/?adopted\b.*|tokens|labels|(past|present)\.\d.*|all_logits.*")


@dataclass(frozen=True)
class Adopted:
    """A decode graph, and the key/value heads of each layer and their width; none without a cache.

    `rounds` says that logits depend on what else is in a call: products are quantized, or computed in half precision.
    `lacks` are the inputs that tell other decoders what is padding.
    """

    decode: ir.Model
    kv_heads: tuple[int, ...]
    head_width: int
    rounds: bool
    lacks: tuple[str, ...]


def adopt(source: ir.Model, writing: Writing, stated: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> Adopted:
    """The decode graph of a foreign decoder, which is left as it was.

    `stated` gives the key/value heads and their width by the config beside it (0: not stated); it is asked if the graph
    does not say them.

    Raises:
        AdoptionError: it has another signature, keeps its cache in another format, or knows fewer ids than are named.
    """
    model = recognise(source)
    tidy(model, Folding())
    graph = model.graph
    found = signature(graph)
    kv_heads, width = cache_shape(found, stated)
    rounds = rounds_by_call(graph)
    make_room(graph)
    forget_lengths(graph)
    rewrite(graph, found, writing, kv_heads, width)
    for step in (common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass(), common.NameFixPass()):
        step(model)
    drop_unused_initializers(graph)
    graph.name, model.producer_name, model.producer_version = "decode", "compress", None
    model.ir_version = max(model.ir_version, OLDEST_IR)
    model.metadata_props.clear()
    lacks = {MASK: found.mask, POSITIONS: found.positions}
    return Adopted(model, kv_heads, width, rounds, tuple(name for name, value in lacks.items() if value is None))


def recognise(source: ir.Model) -> ir.Model:
    """A copy of a causal decoder without defaults; what is none is refused before anything is computed of it.

    Raises:
        AdoptionError: it has another signature, or an opset that is not read.
    """
    check_opset(source)
    model = source.clone()
    drop_defaults(model.graph)
    signature(model.graph)
    return model


def check_opset(source: ir.Model) -> None:
    """Refuse versions of the operators that are too old for what is written here, or not known yet.

    Raises:
        AdoptionError: says which.
    """
    opset, newest = source.opset_imports.get("", 0), onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise AdoptionError(f"its opset is {opset}; export it again with opset {OLDEST_OPSET} or later")
    if opset > newest:
        raise AdoptionError(f"its opset is {opset}; onnx {onnx.__version__} here knows those up to {newest}")


def drop_defaults(graph: ir.Graph) -> None:
    """Constants that are listed as inputs too (defaults, which old exporters wrote of all weights) are constants."""
    for value in [each for each in graph.inputs if each.name in graph.initializers]:
        name = value.name or ""
        if name in (IDS, MASK, POSITIONS, BRANCH) or CACHED.fullmatch(name):
            graph.initializers.pop(name)
            value.const_value = None
        else:
            graph.inputs.remove(value)


def make_room(graph: ir.Graph) -> None:
    """Rename whatever is called as the inputs, outputs and constants that are going to be written."""
    values = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    taken = {value.name for value in values}
    for value in values:
        if OWN_NAMES.fullmatch(value.name or "") and not value.is_graph_output():
            number = 0
            while (name := f"foreign.{value.name}{number or ''}") in taken:
                number += 1
            taken.add(name)
            value.name = name


def forget_lengths(graph: ir.Graph) -> None:
    """Drop names of lengths: to ONNX Runtime equal names are equal lengths; exporters name past and present alike."""
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])


def forget_types(graph: ir.Graph) -> None:
    """Drop what a graph says of the values between its inputs and outputs: fp16 converters leave types of before."""
    for node in graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None


def rounds_by_call(graph: ir.Graph) -> bool:
    """Whether logits depend on what else is in a call by more than fp32 sums do."""
    kinds = {node.op_type for node in graph.all_nodes()}
    halves = [each for each in graph.initializers.values() if each.const_value and each.const_value.dtype in HALVES]
    cached = any(value.dtype in HALVES for value in graph.inputs)
    return bool(kinds & ROUNDING) or cached or any(use.node.op_type != "Cast" for each in halves for use in each.uses())


def rewrite(graph: ir.Graph, found: Signature, writing: Writing, kv_heads: tuple[int, ...], width: int) -> None:
    """Compute the foreign inputs from ours, restrict the vocabulary, and name everything as the runtime does."""
    builder = Builder(graph, next(iter(graph)), "adopted")
    tokens = ir.Value(name="tokens", shape=ir.Shape(["batch", "tokens"]), type=ir.TensorType(INT64))
    labels = ir.Value(name="labels", shape=ir.Shape(["batch"]), type=ir.TensorType(INT64))
    past = [cached("past", index, kv_heads, width) for index in range(len(found.past))]
    call = Call(builder, tokens, labels, past[0] if past else None, writing)
    if found.mask is not None:
        replace(found.mask, typed(builder, call.mask, found.mask))
    if found.positions is not None:
        replace(found.positions, typed(builder, call.positions, found.positions))
    if found.branch is not None:
        replace(found.branch, call.filled(found.branch))
    for own, theirs in zip(past, found.past, strict=True):
        replace(theirs, typed(builder, own, theirs, FLOAT))
    ids = typed(builder, call.ids, found.ids)
    replace(found.ids, ids)
    restrict_embedding(builder, call.ids, ids, writing)
    logits = restrict_head(graph, found.logits, call.ends, writing)
    present = []
    for index, value in enumerate(found.present):
        made = ending(graph, value, found.past[index].dtype)
        wanted = cached("present", index, kv_heads, width)
        made.name, made.shape, made.type = wanted.name, wanted.shape, wanted.type
        present.append(made)
    graph.inputs[:] = [tokens, *past, *([labels] if writing.padded else [])]
    graph.outputs[:] = [logits, *present]


def cached(kind: str, index: int, kv_heads: tuple[int, ...], width: int) -> ir.Value:
    """A key or value of the decode graph: `past.0.key`, `past.0.value`, `past.1.key` and so on."""
    length = "past" if kind == "past" else "past_and_new"
    return ir.Value(
        name=f"{kind}.{index // 2}.{('key', 'value')[index % 2]}",
        shape=ir.Shape(["batch", kv_heads[index // 2], length, width]),
        type=ir.TensorType(FLOAT),
    )


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let a computed value stand for a foreign input."""
    ir.convenience.replace_all_uses_with(old, new)


def typed(builder: Builder, value: ir.Value, like: ir.Value, kind: ir.DataType = INT64) -> ir.Value:
    """A value of a kind in the type of the input that it stands for."""
    if like.dtype in (kind, None):
        return value
    return builder.add("Cast", [value], f"{like.name}/Cast", to=int(like.dtype))


def parameters(model: ir.Model) -> int:
    """Weights of a graph: the numbers of its floating initializers, scalars left out."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(each.size for each in tensors if each is not None and len(each.shape) and each.dtype.is_floating_point())

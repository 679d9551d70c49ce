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
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from export.foreign.folding import Folding
from export.graph.builder import Builder, drop_unused_initializers
from export.graph.graph_file import brief
from export.graph.rounding import ROUNDING
from export.runtime.shape import Shape
from export.tracing.trace import tidy

OLDEST_OPSET = 15  # the first whose Shape can take a part of a shape
OLDEST_IR = 4  # the first whose constants need not be listed as inputs
IDS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
BRANCH = "use_cache_branch"  # of a merged decoder
CACHED = re.compile(r"(past_key_values|present)\.(\d+)\.(key|value)")
INT64, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
CACHES = (FLOAT, *HALVES, ir.DataType.DOUBLE)
OWN_NAMES = re.compile(r"/?adopted\b.*|tokens|labels|(past|present)\.\d.*|all_logits.*")
WANTED = (
    "needed are input_ids, attention_mask, perhaps position_ids, past_key_values.0.key, past_key_values.0.value and so "
    "on; out come logits and present.0.key, present.0.value and so on"
)


class AdoptionError(ValueError):
    """A graph that is no causal decoder with Hugging Face's signature; the message says what is there and needed."""


@dataclass(frozen=True)
class Writing:
    """How a picture is written in a foreign model's ids.

    `image_ids` has the id of each image token; `prompts` the ids before a picture for each class, then for no class;
    `row_end` what follows each row of tokens but the last. Prompts of different lengths are padded on the left, and
    what is padded is hidden from attention.
    """

    grid: tuple[int, int]
    image_ids: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    row_end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts):
            raise ValueError("a prompt without ids: a decoder predicts the first token from at least one id before it")
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("two image tokens have the same id")

    @property
    def shape(self) -> Shape:
        """As the runtime knows it; prompts that are padded need the classes at every call, for the mask."""
        return Shape("causal", len(self.image_ids), len(self.prompts) - 1, self.grid, modulated=self.padded)

    @property
    def longest(self) -> int:
        """Ids of a prompt, padding included."""
        return max(map(len, self.prompts))

    @property
    def padding(self) -> NDArray[np.int64]:
        """Hidden positions before each prompt (C + 1,)."""
        return np.array([self.longest - len(prompt) for prompt in self.prompts], dtype=np.int64)

    @property
    def padded(self) -> bool:
        """Whether prompts differ in length."""
        return bool(self.padding.any())

    @property
    def one_for_one(self) -> bool:
        """Whether each of our tokens is one id of the model."""
        return self.longest == 1 and not self.row_end

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The model's ids: of image tokens (V), of prompts ((C + 1) * L), of what ends a row."""
        padded = [(0,) * (self.longest - len(prompt)) + prompt for prompt in self.prompts]
        return np.array([*self.image_ids, *np.ravel(padded), *self.row_end], dtype=np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Ids that each of our tokens becomes (T,): the class, then every image token but the last."""
        lengths = np.ones(self.grid[0] * self.grid[1], dtype=np.int64)
        lengths[0] = self.longest
        lengths[self.grid[1] :: self.grid[1]] += len(self.row_end)
        return lengths

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Which of our tokens each id belongs to, and how its place in `table` follows: token * factor + offset.

        Three rows, one column for each id of a whole picture.
        """
        vocabulary, rows = len(self.image_ids), []
        ends = vocabulary + len(self.prompts) * self.longest
        for owner, length in enumerate(self.lengths):
            if owner == 0:  # class c has the id V + c, and its prompt begins at V + c * L
                first = vocabulary - vocabulary * self.longest
                rows += [(0, self.longest, first + place) for place in range(self.longest)]
            else:
                rows += [(owner, 1, 0), *((owner, 0, ends + place) for place in range(length - 1))]
        return np.array(rows, dtype=np.int64).T


@dataclass(frozen=True)
class Signature:
    """A foreign graph's inputs and outputs; `past` and `present` are keys and values in turn, layer by layer."""

    ids: ir.Value
    mask: ir.Value | None
    positions: ir.Value | None
    branch: ir.Value | None
    past: tuple[ir.Value, ...]
    logits: ir.Value
    present: tuple[ir.Value, ...]


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


def signature(graph: ir.Graph) -> Signature:
    """The graph's inputs and outputs by what they are for.

    Raises:
        AdoptionError: they are not those of a causal decoder.
    """
    inputs, outputs = ({value.name or "": value for value in values} for values in (graph.inputs, graph.outputs))
    layers = max((int(match[2]) + 1 for match in map(CACHED.fullmatch, inputs) if match), default=0)
    names = [f"{{}}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    past, present = ([name.format(kind) for name in names] for kind in ("past_key_values", "present"))
    kept = set(outputs) - ({name for name in outputs if CACHED.fullmatch(name)} if not layers else set())
    fits = set(inputs) - {MASK, POSITIONS, BRANCH} == {IDS, *past} and kept == {LOGITS, *present}
    if not fits or (BRANCH in inputs and not past):
        raise AdoptionError(
            f"its inputs are {listed(inputs)}, its outputs {listed(outputs)}; of a causal decoder {WANTED}"
        )
    for value in (inputs[name] for name in (IDS, MASK, POSITIONS) if name in inputs):
        if value.shape is not None and len(value.shape) != 2:
            raise AdoptionError(f"{value.name} has {len(value.shape)} axes; (batch, positions) is needed")
    return Signature(
        inputs[IDS],
        inputs.get(MASK),
        inputs.get(POSITIONS),
        inputs.get(BRANCH),
        tuple(inputs[name] for name in past),
        outputs[LOGITS],
        tuple(outputs[name] for name in present),
    )


def listed(names: dict[str, ir.Value]) -> str:
    """A few names of inputs or outputs."""
    first = [brief(name) for name in list(names)[:6]]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")


def cache_shape(found: Signature, stated: Callable[[], tuple[int, int]]) -> tuple[tuple[int, ...], int]:
    """Key/value heads of each layer, and their width.

    Raises:
        AdoptionError: the cache is not (batch, heads, positions, width) of floats, of one width.
    """
    heads, widths = [], set()
    for value in found.past:
        sizes = cache_sizes(value)
        if None in sizes:
            sizes = [said if own is None else own for own, said in zip(sizes, stated(), strict=True)]
        if min(size or 0 for size in sizes) < 1:
            words = "of unknown shape" if value.shape is None else brief(f"({', '.join(map(str, value.shape))})")
            raise AdoptionError(
                f"{value.name} is {words}; (batch, heads, positions, width) with numbers is needed, in the graph or in "
                "a config.json beside it"
            )
        if value.dtype not in CACHES:
            raise AdoptionError(f"{value.name} is {value.dtype}; a cache of floats is needed: export the model again")
        heads.append(sizes[0] or 0)
        widths.add(sizes[1] or 0)
    if len(widths) > 1 or heads[::2] != heads[1::2]:
        raise AdoptionError(f"keys and values have heads {heads} of widths {sorted(widths)}; all widths must be equal")
    return tuple(heads[::2]), next(iter(widths), 0)


def cache_sizes(value: ir.Value) -> list[int | None]:
    """Heads and width of a cached value, None where its shape does not say them; 0 where it has another shape."""
    if value.shape is None:
        return [None, None]
    if len(value.shape) != 4:
        return [0, 0]
    return [size if isinstance(size := value.shape[axis], int) else None for axis in (1, 3)]


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


def ending(graph: ir.Graph, value: ir.Value, kind: ir.DataType | None) -> ir.Value:
    """An output of the foreign graph in fp32; it is of this `kind` unless it says another."""
    if (value.dtype or kind) in (FLOAT, None):
        return value
    made = Builder(graph, None, "adopted").add("Cast", [value], f"{value.name}/Cast", to=int(FLOAT))
    value.name = f"foreign.{value.name}"
    return made


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let a computed value stand for a foreign input."""
    ir.convenience.replace_all_uses_with(old, new)


def typed(builder: Builder, value: ir.Value, like: ir.Value, kind: ir.DataType = INT64) -> ir.Value:
    """A value of a kind in the type of the input that it stands for."""
    if like.dtype in (kind, None):
        return value
    return builder.add("Cast", [value], f"{like.name}/Cast", to=int(like.dtype))


class Call:
    """What one call feeds the foreign graph, as values of the graph."""

    def __init__(
        self, builder: Builder, tokens: ir.Value, labels: ir.Value, past: ir.Value | None, writing: Writing
    ) -> None:
        self.builder, self.tokens, self.labels, self.writing = builder, tokens, labels, writing
        self.constants: dict[str, ir.Value] = {}
        self.batch = builder.add("Shape", [tokens], "batch", start=0, end=1)  # (1,)
        count = builder.add("Shape", [tokens], "count", start=1, end=2)
        zero = self.constant("zero", [0])
        self.past = zero if past is None else builder.add("Shape", [past], "past", start=2, end=3)
        self.ends: ir.Value | None = None
        if writing.one_for_one:
            self.reach = builder.add("Add", [self.past, count], "reach")
            self.ids = builder.add("Gather", [self.constant("table", writing.table), tokens], "ids")
        else:
            self.ids = self.spelled(count)

    def constant(self, name: str, array: object) -> ir.Value:
        """A table of whole numbers; the same one for the same name."""
        if name not in self.constants:
            self.constants[name] = self.builder.initializer(name, np.asarray(array, dtype=np.int64))
        return self.constants[name]

    def spelled(self, count: ir.Value) -> ir.Value:
        """Ids (B, N) of tokens that become several; also `reach` and `ends`."""
        builder, writing = self.builder, self.writing
        begins = np.concatenate([[0], np.cumsum(writing.lengths)])  # of each of our tokens, and the end
        owner_at = np.append(writing.owners[0], len(writing.lengths))
        first = builder.add("Gather", [self.constant("owner_at", owner_at), self.past], "first")
        behind = builder.add("Add", [first, count], "behind")
        self.reach = builder.add("Gather", [self.constant("begins", begins), behind], "reach")

        def now(name: str, array: NDArray[np.int64], start: ir.Value, end: ir.Value) -> ir.Value:
            return builder.add("Slice", [self.constant(name, array), start, end], f"{name}/Slice")

        owner, factor, offset = (
            now(name, row, self.past, self.reach)
            for name, row in zip(("owner", "factor", "offset"), writing.owners, strict=True)
        )
        last = now("last", begins[1:] - 1, first, behind)
        self.ends = builder.add("Sub", [last, self.past], "ends")  # (S,)
        local = builder.add("Sub", [owner, first], "local")
        picked = builder.add("Gather", [self.tokens, local], "picked", axis=1)  # (B, N)
        place = builder.add("Add", [builder.add("Mul", [picked, factor], "scaled"), offset], "place")
        return builder.add("Gather", [self.constant("table", writing.table), place], "ids")

    @cached_property
    def hidden(self) -> ir.Value:
        """Padded positions of each row (B, 1)."""
        pads = self.builder.add("Gather", [self.constant("padding", self.writing.padding), self.labels], "pads")
        return self.builder.add("Unsqueeze", [pads, self.constant("axis", [1])], "hidden")

    @cached_property
    def mask(self) -> ir.Value:
        """1 for every position that may be seen (B, P + N)."""
        size = self.builder.add("Concat", [self.batch, self.reach], "mask/size", axis=0)
        if not self.writing.padded:
            return self.builder.add("Expand", [self.constant("one", [[1]]), size], "mask")
        columns = self.counted("columns", self.constant("zero", [0]), self.reach)
        seen = self.builder.add("GreaterOrEqual", [columns, self.hidden], "seen")
        return self.builder.add("Cast", [seen], "mask", to=int(INT64))

    @cached_property
    def positions(self) -> ir.Value:
        """Positions of the call's ids (B, N)."""
        builder = self.builder
        count = builder.add("Sub", [self.reach, self.past], "positions/count")
        size = builder.add("Concat", [self.batch, count], "positions/size", axis=0)
        counted = self.counted("positions/Range", self.past, self.reach)
        if self.writing.padded:
            shifted = builder.add("Sub", [counted, self.hidden], "positions/shifted")
            counted = builder.add("Max", [shifted, self.constant("least", [0])], "positions/seen")
        return builder.add("Expand", [counted, size], "positions")

    def filled(self, like: ir.Value) -> ir.Value:
        """Whether there are cached positions: () or (1,), as the foreign input is."""
        found = self.builder.add("Greater", [self.past, self.constant("zero", [0])], "filled")
        scalar = like.shape is not None and not len(like.shape)
        return self.builder.add("Squeeze", [found], "filled/scalar") if scalar else found

    def counted(self, name: str, start: ir.Value, end: ir.Value) -> ir.Value:
        """start, start + 1, ... before end."""
        low, high = (
            self.builder.add("Squeeze", [value], f"{name}/{which}") for which, value in (("low", start), ("high", end))
        )
        return self.builder.add("Range", [low, high, self.constant("step", 1)], name)


def restrict_embedding(builder: Builder, spelled: ir.Value, ids: ir.Value, writing: Writing) -> None:
    """Keep only the rows of embeddings that an id can reach; `ids` are the `spelled` ones in the foreign type."""
    used, compact = np.unique(writing.table, return_inverse=True)
    gather = spelled.producer()
    assert gather is not None
    lookups = [(use.node, array) for use in ids.uses() if (array := embedding(use.node, ids)) is not None]
    if not lookups:
        return
    place = builder.add("Gather", [builder.initializer("compact", compact), gather.inputs[1]], "compact_ids")
    # `builder` writes before the first foreign node, so what is new stands before whatever reads it.
    for number, (node, array) in enumerate(lookups):
        if used.max() >= len(array):
            raise AdoptionError(f"id {used.max()} is named, but its embedding has {len(array)} rows")
        node.replace_input_with(0, builder.initializer(f"embedding{number or ''}.weight", array[used]))
        node.replace_input_with(1, place)


def embedding(node: ir.Node, ids: ir.Value) -> NDArray[Any] | None:
    """The constant table whose rows a node looks up by ids."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if node.op_type != "Gather" or axis != 0 or node.inputs[1] is not ids:
        return None
    table = node.inputs[0]
    return None if table is None or table.const_value is None else table.const_value.numpy()


def restrict_head(graph: ir.Graph, logits: ir.Value, ends: ir.Value | None, writing: Writing) -> ir.Value:
    """Logits (B, S, V): of image tokens, at the last id of each of our tokens."""
    node = logits.producer()
    if node is None:
        raise AdoptionError("logits are an input or a constant")
    ids = np.array(writing.image_ids, dtype=np.int64)
    while node.op_type in ("Cast", "Identity") and (cast := node.inputs[0]) is not None and len(cast.uses()) == 1:
        behind = cast.producer()
        if behind is None or cast.is_graph_output():
            break
        node = behind
    builder = Builder(graph, node, "adopted.head")
    weight = node.inputs[1] if node.op_type == "MatMul" and len(node.inputs) > 1 else None
    array = weight.const_value.numpy() if weight is not None and weight.const_value is not None else None
    known = array.shape[1] if array is not None and array.ndim == 2 else last_size(logits)
    if known is not None and ids.max() >= known:
        raise AdoptionError(f"image id {ids.max()} is named, but there are {known} logits")
    if array is not None and array.ndim == 2:
        node.replace_input_with(1, builder.initializer("weight", array[:, ids]))
        for value in node.outputs:
            value.shape = None
        steps = []
    else:
        steps = [(builder.initializer("image_ids", ids), 2)]
    steps += [(ends, 1)] if ends is not None else []
    value = ending(graph, logits, None)
    for number, (wanted, axis) in enumerate(steps):
        attributes, name = [ir.AttrInt64("axis", axis)], f"/adopted/head/Gather_{number}"
        made = ir.Node("", "Gather", [value, wanted], attributes, name=name)
        graph.append(made)
        value.name, value.shape = f"all_{value.name}", None
        value = made.outputs[0]
    value.name, value.type = LOGITS, ir.TensorType(FLOAT)
    value.shape = ir.Shape(["batch", "tokens", len(ids)])
    return value


def last_size(value: ir.Value) -> int | None:
    """The last dimension, where it is known."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None


def parameters(model: ir.Model) -> int:
    """Weights of a graph: the numbers of its floating initializers, scalars left out."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(each.size for each in tensors if each is not None and len(each.shape) and each.dtype.is_floating_point())

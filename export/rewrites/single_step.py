"""One step of a generation in one graph, in each order: what the body of its Loop makes of what it carries.

Letters: B pictures, R rows of a step, T tokens of a picture, n positions of a step, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import Builder
from export.graph.onnx_model import OnnxModel
from export.rewrites.noise_graph import GraphNoise
from export.runtime.choosing import UNSOUND
from export.runtime.sampling import Sampler, halton_order, steps_in_order, steps_surest
from export.runtime.shape import Shape
from export.runtime.signature import TOTALS

FLOAT, INT64, INT32 = (ir.TensorType(getattr(ir.DataType, name)) for name in ("FLOAT", "INT64", "INT32"))


@dataclass(frozen=True)
class Steps:
    """What is known of every step (N,) before anything is drawn."""

    number: NDArray[np.int64]  # of the step, as its noise and schedules count
    guidance: NDArray[np.float32]
    temperature: NDArray[np.float32]
    noisy: NDArray[np.float32]  # 0 where the likeliest is taken
    start: NDArray[np.int64]  # of the scale's tokens, or of the revealed positions in their order
    end: NDArray[np.int64]
    disturbance: NDArray[np.float32]  # of how sure the tokens of a masked model are
    hidden: NDArray[np.int64]  # positions that are masked again

    @classmethod
    def of(cls, shape: Shape, sampler: Sampler) -> Steps:
        """The steps of a whole picture."""
        numbers, count = list(range(shape.length)), shape.length
        ends = [number + 1 for number in numbers]
        hidden, disturbance = [0] * count, [0.0] * count
        if shape.drawing.scaled:
            numbers, count = list(range(len(shape.scales))), len(shape.scales)
            ends = np.cumsum(np.square(shape.scales)).tolist()
        if shape.drawing.masks:
            count, by_order = sampler.steps, sampler.reveal == "halton"
            made = list((steps_in_order if by_order else steps_surest)(sampler, shape.length))
            numbers = [number for number, _ in made]
            ends = [revealed for _, revealed in made] if by_order else [shape.length] * len(made)
            hidden = [0 if by_order else masked for _, masked in made]
            disturbance = [sampler.choice_at(number, count) for number in numbers]
        starts = [0, *ends[:-1]]
        temperature = [sampler.temperature_at(number, count) for number in numbers]
        if shape.drawing.masks and sampler.reveal != "halton":
            starts = [0] * len(numbers)  # every position is asked for at every step
            temperature = disturbance if sampler.reveal == "logit" else temperature
        return cls(
            number=np.array(numbers, dtype=np.int64),
            guidance=np.array([sampler.scale_at(number, count) for number in numbers], dtype=np.float32),
            temperature=np.array([each or 1.0 for each in temperature], dtype=np.float32),
            noisy=np.array([each > 0 for each in temperature], dtype=np.float32),
            start=np.array(starts, dtype=np.int64),
            end=np.array(ends, dtype=np.int64),
            disturbance=np.array(disturbance[: len(numbers)], dtype=np.float32),
            hidden=np.array(hidden[: len(numbers)], dtype=np.int64),
        )


@dataclass
class Writing:
    """A generation while it is written: the model, the outermost graph, the body of its Loop and what both hold.

    `given` is what the body gets of what the Loop carries, `made` what it hands on. `index` () is the step's place in
    `Steps`; `start`, `end` and `number` () are what stands there.
    """

    model: OnnxModel
    steps: Steps
    outer: Builder
    inner: Builder
    noise: GraphNoise
    given: dict[str, ir.Value]
    index: ir.Value
    made: dict[str, ir.Value] = field(default_factory=dict)
    start: ir.Value = field(init=False)
    end: ir.Value = field(init=False)
    number: ir.Value = field(init=False)

    def __post_init__(self) -> None:
        self.start, self.end, self.number = (
            self.now(name, getattr(self.steps, name)) for name in ("start", "end", "number")
        )

    @property
    def shape(self) -> Shape:
        """The model's."""
        return self.model.manifest.shape

    @property
    def sampler(self) -> Sampler:
        """The model's."""
        return self.model.manifest.sampler

    def constant(self, name: str, value: int | Sequence[int]) -> ir.Value:
        """A constant of whole numbers, made once."""
        return constant(self.outer, name, value)

    def now(self, name: str, values: NDArray[Any]) -> ir.Value:
        """That of the step, of one number for each step (N,)."""
        return self.inner.add("Gather", [self.outer.initializer(name, values), self.index], f"{name}_now", axis=0)

    def decode(self, feeds: dict[str, ir.Value]) -> dict[str, ir.Value]:
        """What the decode graph makes in a step; the longer cache is carried on."""
        caches = {name: value for name, value in self.given.items() if name.startswith("past.")}
        made = inlined(self.inner.graph, self.model.decode, "decode", feeds | caches)
        for name in caches:
            self.made[name] = made[name.replace("past.", "present.")]
            self.made[name].shape = None  # that of a shared cache is said to have its full length
        made["drawn"] = self.sound(made[TOTALS], made["drawn"])
        return made

    def sound(self, totals: ir.Value, drawn: ir.Value) -> ir.Value:
        """What was drawn (B, n), or `UNSOUND` where a logit of the step is NaN: no token is, so it shows at the end."""
        total = self.inner.add("ReduceSum", [totals], "total_of_logits", keepdims=0)
        unsound = self.inner.add("IsNaN", [total], "is_unsound")
        return self.inner.add("Where", [unsound, self.constant("unsound", UNSOUND), drawn], "sound")

    def rows(self, tokens: ir.Value, name: str) -> ir.Value:
        """Tokens (B, ...) for every row of a step."""
        if not self.sampler.guided:
            return self.inner.add("Identity", [tokens], name)
        return self.inner.add("Concat", [tokens, tokens], name, axis=0)

    def placed(self, tokens: ir.Value, drawn: ir.Value, places: ir.Value) -> ir.Value:
        """Tokens (B, T) with those drawn (B, n) at places (n,)."""
        where = self.inner.add("Expand", [places, self.inner.add("Shape", [drawn], "drawn_shape")], "where")
        return typed(self.inner.add("ScatterElements", [tokens, where, drawn], "placed", axis=1), INT64)


def causal_step(writing: Writing, feeds: dict[str, ir.Value]) -> None:
    """Token by token; the first call reads all that stands before the first token."""
    inner, shape = writing.inner, writing.shape
    tokens = feeds["tokens"] = writing.given["tokens"]
    read = inner.add("Shape", [tokens], "read", start=1, end=2)
    if shape.text:
        feeds["features"] = writing.given["features"]
        read = inner.add("Add", [read, inner.add("Shape", [feeds["features"]], "text", start=1, end=2)], "read_in_all")
        none = writing.constant("none", [0])
        cut = inner.add("Slice", [feeds["features"], none, none, writing.constant("second", [1])], "no_features")
        writing.made["features"] = typed(cut, FLOAT)
    if writing.model.manifest.cache == "shared":
        total = inner.add("Add", [writing.given["position"], inner.add("Squeeze", [read], "read_count")], "total")
        writing.made["position"] = typed(total, INT64, [])
        last = inner.add("Sub", [total, writing.constant("one", 1)], "last")
        last_32 = inner.add("Cast", [last], "last_32", to=int(INT32.dtype))
        feeds["seqlens_k"] = inner.add(
            "Expand", [last_32, inner.add("Shape", [tokens], "rows", start=0, end=1)], "ends"
        )
        feeds["total_sequence_length"] = inner.add("Cast", [total], "total_32", to=int(INT32.dtype))
    drawn = writing.made["drawn"] = writing.decode(feeds)["drawn"]
    writing.made["tokens"] = typed(writing.rows(drawn, "next_tokens"), INT64, ["rows", "next"])


def scale_step(writing: Writing, feeds: dict[str, ir.Value]) -> None:
    """Scale by scale; what the next one reads comes from the tokens so far."""
    inner, scales = writing.inner, writing.model.scales
    assert scales is not None
    feeds["tokens"] = writing.given["tokens"]
    drawn, one = writing.decode(feeds)["drawn"], writing.constant("one", 1)
    places = inner.add("Range", [writing.start, writing.end, one], "places")
    tokens = writing.made["drawn"] = writing.placed(writing.given["drawn"], drawn, places)
    fed = {"tokens": writing.rows(tokens, "row_tokens")}
    latents = inlined(inner.graph, scales, "scales", fed)["latents"]
    next_end = writing.now("next_end", np.append(writing.steps.end[1:], writing.steps.end[-1]))  # none is the last's
    bounds = [
        inner.add("Unsqueeze", [inner.add("Sub", [each, one], f"{name}_latent"), writing.constant("front", [0])], name)
        for name, each in (("latents_start", writing.end), ("latents_end", next_end))
    ]
    sliced = inner.add("Slice", [latents, *bounds, writing.constant("second", [1])], "next_latents")
    writing.made["tokens"] = typed(sliced, FLOAT)


def masked_step(writing: Writing, feeds: dict[str, ir.Value]) -> None:
    """Mask by mask: positions are revealed in their order, or the surest stay and the others are masked again."""
    inner, shape, tokens = writing.inner, writing.shape, writing.given["drawn"]
    by_order = writing.sampler.reveal == "halton"
    order = halton_order(shape.grid) if by_order else np.arange(shape.length)
    places = inner.add("Range", [writing.start, writing.end, writing.constant("one", 1)], "places")
    positions = inner.add("Gather", [writing.outer.initializer("order", order), places], "positions", axis=0)
    feeds |= {"tokens": writing.rows(tokens, "row_tokens"), "positions": positions}
    made = writing.decode(feeds)
    if by_order:
        writing.made["drawn"] = writing.placed(tokens, made["drawn"], positions)
        return
    mask = writing.constant("mask", shape.mask_token)
    unknown = inner.add("Equal", [tokens, mask], "unknown")
    drawn = inner.add("Where", [unknown, made["drawn"], tokens], "all_drawn")
    extra = writing.noise.gumbel(
        Builder(inner.graph, None, "step/places"), writing.number, writing.constant("places", shape.length), "place"
    )
    certain = writing.outer.initializer("certain", np.array(np.inf, dtype=np.float32))
    if writing.sampler.reveal == "random":
        disturbed = extra
    else:
        nudge = inner.add("Mul", [extra, writing.now("disturbance", writing.steps.disturbance)], "nudge")
        disturbed = inner.add("Add", [made["sureness"], nudge], "disturbed")
    sureness = inner.add("Where", [unknown, disturbed, certain], "sureness_of_unknown")
    hidden = writing.now("hidden", writing.steps.hidden)
    count = inner.add("Unsqueeze", [hidden, writing.constant("front", [0])], "hidden_count")
    _, least = inner.node("TopK", [sureness, count], outputs=2, attributes={"axis": -1, "largest": 0})
    again = inner.add("Expand", [mask, inner.add("Shape", [least], "least_shape")], "masked_again")
    kept = inner.add("ScatterElements", [drawn, least, again], "kept", axis=1)
    writing.made["drawn"] = typed(kept, INT64)


def step_writer(shape: Shape) -> Callable[[Writing, dict[str, ir.Value]], None]:
    """What writes a step of this order."""
    return masked_step if shape.drawing.masks else scale_step if shape.drawing.scaled else causal_step


def inlined(graph: ir.Graph, model: ir.Model, prefix: str, feeds: dict[str, ir.Value]) -> dict[str, ir.Value]:
    """Append a copy of a model's nodes to a graph, fed with these values; its outputs by name.

    Constants go to the same graph, though it be the body of a Loop: ONNX Runtime fuses what is quantized only with
    those beside it.
    """
    part = model.clone().graph
    outputs = {value.name or "": value for value in part.outputs}
    for value in list(part.inputs):
        ir.convenience.replace_all_uses_with(value, feeds[value.name or ""])
    for name, value in list(part.initializers.items()):
        part.initializers.pop(name)
        value.name = f"{prefix}.{name}"
        graph.register_initializer(value)
    for node in part.all_nodes():
        node.name = f"/{prefix}{node.name}"
        for value in node.outputs:
            value.name = f"{prefix}/{value.name}"
    part.outputs.clear()
    nodes = list(part)
    part.remove(nodes)
    graph.extend(nodes)
    for domain, version in part.opset_imports.items():
        graph.opset_imports[domain] = max(version or 1, graph.opset_imports.get(domain) or 1)
    return outputs


def constant(build: Builder, name: str, value: int | Sequence[int]) -> ir.Value:
    """A constant of whole numbers of the outermost graph, made once."""
    full = f"{build.scope}.{name}"
    return build.graph.initializers.get(full) or build.initializer(name, np.array(value, dtype=np.int64))


def fed(graph: ir.Graph | None, name: str, kind: ir.TypeProtocol, dimensions: Sequence[int | str] | None) -> ir.Value:
    """An input."""
    shape = None if dimensions is None else ir.Shape(list(dimensions))
    value = ir.Value(name=name, type=kind, shape=shape)
    if graph is not None:
        graph.inputs.append(value)
    return value


def typed(value: ir.Value, kind: ir.TypeProtocol, dimensions: Sequence[int | str] | None = None) -> ir.Value:
    """The value, said to be of a type."""
    value.type = kind
    value.shape = None if dimensions is None else ir.Shape(list(dimensions))
    return value

"""What a foreign decoder takes and gives, by the names of Hugging Face; what has other ones is refused.

Letters: B batch, P cached positions, N ids of a call, K key/value heads, d head width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from export.graph.graph_file import brief

IDS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
BRANCH = "use_cache_branch"  # of a merged decoder
CACHED = re.compile(r"(past_key_values|present)\.(\d+)\.(key|value)")
INT64, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
CACHES = (FLOAT, *HALVES, ir.DataType.DOUBLE)
WANTED = (
    "needed are input_ids, attention_mask, perhaps position_ids, past_key_values.0.key, past_key_values.0.value and so "
    "on; out come logits and present.0.key, present.0.value and so on"
)


class AdoptionError(ValueError):
    """A graph that is no causal decoder with Hugging Face's signature; the message says what is there and needed."""


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

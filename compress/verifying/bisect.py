"""Find where two models part: the first place in the order of the data, and inside a block the first operator.

Letters: N pictures, S positions, D width.

A layer departs where its relative error is above `NOISE` and ten times that of the stream it reads: error that only
grows gently was made before. Inside the layer both sides are given the reference's stream, so that the first operator
whose output departs made the error itself. What a few pictures do not run through is looked at in `places`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, setting
from compress.measure.drift.layers import LayerDrift, layers, relative_error
from compress.measure.drift.states import graph_of, is_engine, run_with, states_of
from compress.models.candidate import MANIFEST
from compress.models.transformer.examples import Examples
from compress.verifying import places
from compress.verifying.places import Place, first_departure

if TYPE_CHECKING:
    from collections.abc import Callable

    from compress.models.candidate import Candidate
    from compress.models.image_model import ImageModel
    from export.runtime.engine import Engine


@dataclass(frozen=True)
class Operator:
    """One operator of the departing layer."""

    name: str = setting(doc="the module, or the node of the graph")
    relative_error: float = setting(doc="of its output, when both sides read the reference's stream", low=0)


@dataclass(frozen=True)
class Bisection:
    """Where two models part."""

    reference: str = setting(doc="what was compared with")
    candidate: str = setting(doc="what was compared")
    pictures: int = setting(doc="pictures that both read", low=1)
    layers: tuple[LayerDrift, ...] = setting(doc="the stream behind every layer")
    places: tuple[Place, ...] = setting(doc="everything else that was looked at")
    departs: str = setting(
        doc="the first that departs: `class 3`, `null class`, `token 7`, `mask token`, `position 5`, `embedding`, "
        "`blocks.2`, `norm`, `head`, `cache of blocks.2`, `cache`, `sampler`, `image decoder`, `single file`, "
        "`image encoder`; empty if nothing does"
    )
    operators: tuple[Operator, ...] = setting(doc="operators of that layer, in order; empty if they do not pair up")
    operator: str = setting(doc="the first operator that departs; empty if none was found")
    note: str = setting("", doc="why a departure may be no fault; empty where nothing is known")


def bisect(reference: Candidate, candidate: Candidate, names: tuple[str, str], examples: Examples) -> Bisection:
    """Compare a candidate with a reference on teacher-forced examples.

    Raises:
        InputError: one of them does not show its layers, or they have not as many.
    """
    states = []
    for name, each in zip(names, (reference, candidate), strict=True):
        try:
            states.append(states_of(each, examples))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
    pruned = len(states[1]) < len(states[0])
    kept = kept_of(candidate) if pruned else None
    try:
        rows = layers(states[0], states[1], kept)
    except ValueError as error:
        raise InputError(
            f"{names[1]}: {error}; a model whose layers were pruned can be followed as an engine of a run only"
        ) from error
    errors = [row.relative_error for row in rows]
    found = first_departure(errors)
    before = list(places.beginnings(reference, candidate, examples, pruned))
    ends = list(places.ends(reference, candidate, examples, errors[-1]))
    whole = [*errors[1:], ends[-1].error]
    behind = [
        *ends,
        *places.cache(reference, candidate, examples, kept, whole),
        *places.outside(reference, candidate, names, examples),
    ]
    # Single rows of the embedding are found before the embedding as a whole, and all of it before the blocks.
    inner = "" if found is None else rows[found].name
    departing = [*(each.departs for each in before), inner, *(each.departs for each in behind)]
    departs = next((each for each in departing if each), "")
    operators: tuple[Operator, ...] = ()
    if found and departs == inner and not pruned:  # place 0 is the embedding
        operators = tuple(inside(reference, candidate, found - 1, states[0][found - 1], examples))
    guilty = first_departure([each.relative_error for each in operators], growth=1.0)
    return Bisection(
        reference=names[0],
        candidate=names[1],
        pictures=len(examples),
        layers=rows,
        places=(*before, *behind),
        departs=departs,
        operators=operators,
        operator="" if guilty is None else operators[guilty].name,
        note=note_of(reference, candidate, names) if departs else "",
    )


def note_of(reference: Candidate, candidate: Candidate, names: tuple[str, str]) -> str:
    """What to compare with instead, where one model is quantized and the other is not."""
    if is_quantized(reference) == is_quantized(candidate):
        return ""
    rounded = names[is_quantized(candidate)]
    return (
        f"{rounded} is quantized and the other is not, so rounding alone departs; to find a fault, compare it with a "
        f"sound engine of the same form"
    )


def is_quantized(candidate: Candidate) -> bool:
    """Whether a model holds weights of 8 bits or fewer."""
    if is_engine(candidate):
        import onnx_ir as ir

        weights = graph_of(candidate).graph.initializers.values()  # type: ignore[arg-type]
        kinds = {each.const_value.dtype for each in weights if each.const_value is not None}
        return any(kind != ir.DataType.BOOL and kind.itemsize <= 1 for kind in kinds)
    from compress.models.transformer.quantized import quantizations

    return bool(quantizations(candidate.transformer))  # type: ignore[attr-defined]


def kept_of(candidate: Candidate) -> list[int] | None:
    """The reference's blocks that an engine of a run still has, as its manifest tells; None if that tells nothing."""
    folder = getattr(candidate, "folder", None)
    if folder is None:
        return None
    measured = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("measured") or {}
    names = [row["name"] for row in measured.get("layers", ())]
    return [int(name.rpartition(".")[2]) for name in names[1:]] or None


def inside(
    reference: Candidate, candidate: Candidate, block: int, stream: NDArray[np.float32], examples: Examples
) -> Iterator[Operator]:
    """Operators of a block in order; nothing where one side is in PyTorch and the other a graph."""
    if hasattr(reference, "transformer") and hasattr(candidate, "transformer"):
        theirs, own = (modules(each, block, stream, examples) for each in (reference, candidate))  # type: ignore[arg-type]
    elif hasattr(reference, "manifest") and hasattr(candidate, "manifest"):
        theirs, own = (nodes(each, block, examples) for each in (reference, candidate))  # type: ignore[arg-type]
    else:
        return
    for name in theirs:
        if name in own and theirs[name].shape == own[name].shape:
            yield Operator(name, relative_error(theirs[name], own[name]))


def modules(model: ImageModel, block: int, stream: NDArray[np.float32], examples: Examples) -> dict[str, NDArray[Any]]:
    """Outputs of the modules of a block that have none inside, in order of running, behind a given stream."""
    import torch

    found: dict[str, NDArray[Any]] = {}
    inputs, features = examples.tensors()
    transformer = model.transformer
    with torch.no_grad():
        _, around = transformer.prepare(inputs, features)
        module = transformer.blocks[block]
        hooks = [
            each.register_forward_hook(keeper(found, name))
            for name, each in module.named_modules()
            if name and not list(each.children())
        ]
        out, _ = module(transformer.rotated(torch.from_numpy(stream)), transformer.inside(around), None)
        for hook in hooks:
            hook.remove()
    return {f"blocks.{block}.{name}": value for name, value in found.items()} | {
        f"blocks.{block}": transformer.unrotated(out).numpy()
    }


def keeper(found: dict[str, NDArray[Any]], name: str) -> Callable[[Any, Any, Any], None]:
    """A hook that keeps what a module gave the first time it ran."""

    def keep(module: Any, given: Any, made: Any) -> None:
        found.setdefault(name, first_tensor(made))

    return keep


def first_tensor(value: Any) -> NDArray[Any]:
    """The numbers that a module gave, joined where it gave several."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.numpy()
    return np.concatenate([each.numpy().ravel() for each in value])


def nodes(engine: Engine, block: int, examples: Examples) -> dict[str, NDArray[Any]]:
    """Outputs of the nodes of a block, in order; the block reads the engine's own stream."""
    from export.graph.states import with_nodes

    model, names = with_nodes(graph_of(engine), block)
    values = {node.name or "": node.outputs[0].name or "" for node in model.graph}
    made = run_with(engine, model, [values[name] for name in names], examples)
    return {name: value for name, value in zip(names, made, strict=True) if value.dtype.kind == "f"}

"""Find where two models part: the first layer whose stream departs, and inside it the first operator.

Letters: N pictures, S positions, D width.

A layer departs where its relative error is above `NOISE` and ten times that of the stream it reads: error that only
grows gently was made before. Inside the layer both sides are given the reference's stream, so that the first operator
whose output departs made the error itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, setting
from compress.measure.drift.layers import LayerDrift, layers, relative_error, run_with, states_of
from compress.models.candidate import MANIFEST
from compress.models.transformer.examples import Examples

if TYPE_CHECKING:
    from compress.models.candidate import Candidate
    from compress.models.image_model import ImageModel
    from export.runtime.engine import Engine

NOISE = 1e-4  # relative; fp32 sums in another order stay below 1e-5
GROWTH = 10.0


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
    departs: str = setting(doc="the first layer that departs; empty if none does")
    operators: tuple[Operator, ...] = setting(doc="operators of that layer, in order; empty if they do not pair up")
    operator: str = setting(doc="the first operator that departs; empty if none was found")


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
    try:
        pruned = len(states[1]) < len(states[0])
        rows = layers(states[0], states[1], kept_of(candidate) if pruned else None)
    except ValueError as error:
        raise InputError(
            f"{names[1]}: {error}; a model whose layers were pruned can be followed as an engine of a run only"
        ) from error
    place = first_departure([row.relative_error for row in rows])
    operators: tuple[Operator, ...] = ()
    if place and not pruned:  # place 0 is the embedding
        operators = tuple(inside(reference, candidate, place - 1, states[0][place - 1], examples))
    guilty = first_departure([each.relative_error for each in operators], growth=1.0)
    return Bisection(
        reference=names[0],
        candidate=names[1],
        pictures=len(examples),
        layers=rows,
        departs="" if place is None else rows[place].name,
        operators=operators,
        operator="" if guilty is None else operators[guilty].name,
    )


def kept_of(candidate: Candidate) -> list[int] | None:
    """The reference's blocks that an engine of a run still has, as its manifest tells; None if that tells nothing."""
    folder = getattr(candidate, "folder", None)
    if folder is None:
        return None
    measured = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("measured") or {}
    names = [row["name"] for row in measured.get("layers", ())]
    return [int(name.rpartition(".")[2]) for name in names[1:]] or None


def first_departure(errors: list[float], growth: float = GROWTH) -> int | None:
    """The first place whose error is above the noise and has grown by more than is usual; None if there is none."""
    before = 0.0
    for place, error in enumerate(errors):
        if error > NOISE and error > growth * before:
            return place
        before = error
    return None


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
        out, _ = module(torch.from_numpy(stream), transformer.inside(around), None)
        for hook in hooks:
            hook.remove()
    return {f"blocks.{block}.{name}": value for name, value in found.items()} | {f"blocks.{block}": out.numpy()}


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
    from export.graph.graph_file import load_graph
    from export.graph.states import with_nodes

    model, names = with_nodes(load_graph(engine.folder / engine.manifest.files["decode"]), block)
    values = {node.name or "": node.outputs[0].name or "" for node in model.graph}
    made = run_with(engine, model, [values[name] for name in names], examples)
    return {name: value for name, value in zip(names, made, strict=True) if value.dtype.kind == "f"}

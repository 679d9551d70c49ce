"""What a model computes on the way to its logits, in PyTorch or as an engine: the streams of its layers.

Letters: N pictures, S positions, D width, T tokens of a picture, V logits of a position.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.models.transformer.examples import Examples
from export.runtime.drawing import score_stepwise

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from compress.models.candidate import Candidate
    from compress.models.image_model import ImageModel
    from export.runtime.engine import Engine

States = list[NDArray[np.float32]]
HIDDEN = "a model that was an ONNX graph from the beginning does not show its layers"


def is_engine(candidate: Candidate) -> bool:
    """Whether it is one; otherwise it is in PyTorch.

    Raises:
        ValueError: it is neither, and shows nothing.
    """
    if hasattr(candidate, "manifest"):
        return True
    if not hasattr(candidate, "transformer"):
        raise ValueError(HIDDEN)
    return False


def states_of(candidate: Candidate, examples: Examples) -> States:
    """Streams (N, S, D) before the first block and behind every one.

    Raises:
        ValueError: its graph does not show them.
    """
    if is_engine(candidate):
        from export.graph.states import with_states

        states = run_with(candidate, *with_states(graph_of(candidate)), examples)  # type: ignore[arg-type]
    else:
        states = torch_states(candidate, examples)  # type: ignore[arg-type]
    return unrotated(candidate, states)


def unrotated(candidate: Candidate, states: States) -> States:
    """Streams (N, S, D) in the channels that the model had before the pass `rotate`, so that others' compare."""
    if not (seed := rotation_of(candidate)):
        return states
    from compress.models.transformer.hadamard import mean_keeping

    matrix = mean_keeping(states[0].shape[-1], seed).float().numpy()
    return [each @ matrix for each in states]


def rotation_of(candidate: Candidate) -> int:
    """The seed of the rotation of a model's stream; 0: it is not rotated."""
    said = candidate.manifest if is_engine(candidate) else candidate.transformer.config  # type: ignore[attr-defined]
    return int(said.stream_rotation)


def torch_states(model: ImageModel, examples: Examples) -> States:
    """Of an ImageModel; a masked one's last stream is of the picture's positions alone, as its engines compute it."""
    import torch

    transformer = model.transformer
    with torch.no_grad():
        x, around = prepared(model, examples)
        states = [each.float().numpy() for each in transformer.layer_outputs(x, around)]
    config = transformer.config
    if config.drawing.masks and not config.uvit and config.patch == 1:
        states[-1] = states[-1][:, config.class_token :][:, : config.length]
    return states


def prepared(model: ImageModel, examples: Examples) -> tuple[Any, Any]:
    """The stream before the first block, and its surroundings."""
    inputs, features = examples.tensors()
    if features is not None:
        features = features.to(next(model.transformer.parameters()).dtype)
    return model.transformer.prepare(inputs, features)


def last_states(candidate: Candidate, examples: Examples) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
    """What the last norm gives (N, S, D), None where it is not found or rotated, and logits (N, T, V) of one call."""
    if is_engine(candidate):
        from export.graph.states import with_last_norm

        model, norm = with_last_norm(graph_of(candidate))  # type: ignore[arg-type]
        names = [norm, "logits"] if norm else ["logits"]
        made = run_with(candidate, model, names, examples)  # type: ignore[arg-type]
    else:
        import torch

        with torch.no_grad(), kept(candidate.transformer.norm) as found:  # type: ignore[attr-defined]
            logits = candidate.transformer(*examples.tensors())  # type: ignore[attr-defined]
        made = [found[-1], logits.float().numpy()]
    length = examples.targets.shape[1]
    shown = len(made) > 1 and not rotation_of(candidate)  # what is rotated is without its gain
    return made[0] if shown else None, made[-1][:, -length:]


def first_states(candidate: Candidate, examples: Examples) -> States:
    """Streams (N, S, D) before and behind the first block, and nothing else is computed where that can be."""
    if is_engine(candidate):
        from export.graph.states import with_first_states, with_states

        # A next-scale graph runs scale by scale, through its cache.
        show = with_states if candidate.shape.drawing.scaled else with_first_states
        model, names = show(graph_of(candidate))  # type: ignore[arg-type]
        return unrotated(candidate, run_with(candidate, model, names[:2], examples))  # type: ignore[arg-type]
    import torch

    with torch.no_grad():
        states = candidate.transformer.layer_outputs(*prepared(candidate, examples))  # type: ignore[attr-defined,arg-type]
        return unrotated(candidate, [next(states).float().numpy() for _ in range(2)])


def stepwise_states(candidate: Candidate, examples: Examples) -> States:
    """Streams (N, S, D) behind every block, then logits (N, T, V), step by step through the cache."""
    if is_engine(candidate):
        from export.graph.states import with_states

        model, names = with_states(graph_of(candidate))  # type: ignore[arg-type]
        # The logits of the loop itself: what precedes a picture's first token has none in some loops.
        *states, logits = run_with(candidate, model, [*names[1:], "logits"], examples, stepwise=True)  # type: ignore[arg-type]
        return [*unrotated(candidate, states), logits[:, -examples.targets.shape[1] :]]
    transformer = candidate.transformer  # type: ignore[attr-defined]
    with kept(*transformer.blocks) as found:
        logits = score_stepwise(candidate.runner(), examples.inputs, candidate.shape, examples.features)  # type: ignore[attr-defined]
    depth = len(transformer.blocks)
    streams = [np.concatenate(found[block::depth], axis=1) for block in range(depth)]
    return [*unrotated(candidate, streams), logits]


@contextmanager
def kept(*modules: nn.Module) -> Iterator[States]:
    """What modules give while this lasts, in the order of running; the first of what is given together."""
    found: States = []

    def keep(module: Any, given: Any, made: Any) -> None:
        found.append((made[0] if isinstance(made, tuple) else made).detach().float().numpy())

    hooks = [each.register_forward_hook(keep) for each in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def graph_of(engine: Engine) -> ir.Model:
    """Its decode graph."""
    from export.graph.graph_file import load_graph

    return load_graph(engine.folder / engine.manifest.files["decode"])


def run_with(
    engine: Engine, model: ir.Model, names: list[str], examples: Examples, stepwise: bool = False
) -> list[NDArray[Any]]:
    """Outputs of another version of an engine's decode graph, in one call for all tokens or step by step."""
    from export.graph.weights import save_graph

    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "decode.onnx"
        save_graph(model, path)
        return engine.run_variant(path, names, examples.inputs, examples.features, stepwise)

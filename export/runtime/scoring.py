"""What an engine makes of given tokens: teacher-forced logits, caches, and outputs of another version of its graph.

Letters: N pictures, T tokens of a picture, O logits of a position, P x C features of a text, K key/value heads, L
length of a cache, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cached_loops import Loop
from .drawing import score_stepwise
from .feeds import filled_up
from .loops import make_loop

if TYPE_CHECKING:
    from .engine import Engine

SCORE_ROWS = 32  # rows scored at once at most
SCORE_LOGITS = 2**26  # and logits, 256 MB
STEPWISE_ROWS = 8  # rows that share a call where logits depend on all of it


def score(engine: Engine, inputs: NDArray[np.int64], features: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...): all tokens in one call, where the graph can.

    A plan takes one token a call, and a next-scale graph one scale. Where logits depend on what else is in a call,
    the calls are those of drawing a few pictures.
    """
    if engine.manifest.call_scaled and engine.shape.drawing.sequential:
        chunks = [slice(start, start + STEPWISE_ROWS) for start in range(0, len(inputs), STEPWISE_ROWS)]
        texts = [None if features is None else features[rows] for rows in chunks]
        parts = [engine.score_stepwise(inputs[rows], text) for rows, text in zip(chunks, texts, strict=True)]
        return np.concatenate(parts)
    if engine.plan is not None or engine.shape.drawing.scaled:
        return engine.score_stepwise(inputs, features)
    numbers = engine.length * engine.shape.predicted + engine.graphs.sessions.numbers_of_a_row
    size = engine.manifest.fixed_batch or max(1, min(SCORE_ROWS, SCORE_LOGITS // numbers))
    logits = []
    for start in range(0, len(inputs), size):
        rows = slice(start, start + size)
        padded = filled_up(inputs[rows], engine.manifest.fixed_batch or 1)
        text = None if features is None else filled_up(features[rows], engine.manifest.fixed_batch or 1)
        with engine._running("decode"):
            last = rows.stop >= len(inputs)
            made = engine.graphs.sessions.run(["logits"], engine.feeds(padded, text), last=last)[0]
        logits.append(made[: len(inputs[rows])])
    whole = np.concatenate(logits)
    return whole[:, engine.shape.prefix - 1 :] if engine.shape.drawing.sequential else whole


def caches(
    engine: Engine, inputs: NDArray[np.int64], features: NDArray[np.float32] | None
) -> dict[str, NDArray[np.float32]]:
    """Keys and values (N, K, L, d) behind all of the inputs (N, 1 + ...), by the names `0.key`, `0.value`, ..."""
    names = list(engine.signature.caches)
    outputs = [f"present.{name}" for name in names]
    with engine._running("decode"):
        return dict(zip(names, engine.graphs.sessions.run(outputs, engine.feeds(inputs, features)), strict=True))


def run_variant(
    engine: Engine,
    path: Path,
    outputs: Sequence[str],
    inputs: NDArray[np.int64],
    features: NDArray[np.float32] | None,
    *,
    stepwise: bool,
) -> list[NDArray[Any]]:
    """Outputs of another version of the decode graph for inputs (N, 1 + ...).

    All tokens are read in one call, or step by step through the cache, as a next-scale model always runs.
    """
    session = engine.graphs.open("decode", path=path)
    if stepwise or engine.shape.drawing.scaled:
        loop = make_loop(replace(engine.graphs.sessions, decode=session), engine.manifest, len(inputs))
        assert isinstance(loop, Loop)
        loop.keep(list(dict.fromkeys(outputs)))
        score_stepwise(loop, inputs, engine.shape, features)
        return [loop.whole(name) for name in outputs]
    taken, feeds = {each.name for each in session.get_inputs()}, engine.feeds(inputs, features)
    wanted = list(dict.fromkeys(name for name in outputs if name not in feeds))
    made = replace(engine.graphs.sessions, decode=session).run(
        wanted, {name: value for name, value in feeds.items() if name in taken}
    )
    found = feeds | dict(zip(wanted, made, strict=True))
    return [found[name] for name in outputs]

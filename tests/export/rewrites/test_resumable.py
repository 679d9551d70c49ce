"""A generation that is stopped and taken up between any steps draws what the engine draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import hoist
from export.rewrites.resumable import NEXT, STATE, TOKENS, resumable
from export.runtime.sampling import Sampler
from export.targets import fuse

KINDS = ["rotary", "lead", "modulated", "masked", "masked without classes", "next-scale"]
SAMPLER = Sampler(top_k=9, temperature=0.9, steps=5, cfg_scale=2.0, guidance="linear")


def drawn(model: OnnxModel, labels: np.ndarray, seed: int, first: int, at_once: int) -> np.ndarray:
    """Tokens (N, T), so many steps in a call."""
    start, advance, steps = resumable(model)
    sessions = []
    for graph in (start, advance):
        proto = ir.to_proto(graph)
        onnx.checker.check_model(proto, full_check=True)
        sessions.append(onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]))
    begun, going = sessions
    feeds = {"labels": labels, "seed": np.array(seed), "first": np.array(first)}
    state = dict(zip([each.name for each in begun.get_outputs()], begun.run(None, feeds), strict=True))
    assert {each.name for each in going.get_inputs()} == {*state, "done", "count"}
    names = [each.name for each in going.get_outputs()]
    for step in range(0, steps, at_once):
        count = np.array(min(at_once, steps - step))
        made = dict(zip(names, going.run(None, {**state, "done": np.array(step), "count": count}), strict=True))
        state |= {STATE + name.removeprefix(NEXT): value for name, value in made.items() if name.startswith(NEXT)}
    return made[TOKENS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["plain", "fused", "hoisted"])
def test_a_resumed_generation_draws_the_tokens_of_the_engine(kind, form, exported, engine_of, examples_of) -> None:
    model = exported(kind)
    model = replace(model, manifest=replace(model.manifest, sampler=SAMPLER))
    if form != "plain":
        model = fuse(model).model
    if form == "hoisted" and kind in ("lead", "modulated", "masked", "next-scale"):
        model = hoist(model).model
    labels = examples_of(kind).inputs[:, 0] - model.manifest.shape.first_class
    wanted = engine_of(model).draw_tokens(labels, 7, first=2)
    for at_once in (1, 3):
        np.testing.assert_array_equal(drawn(model, labels, 7, 2, at_once), wanted)

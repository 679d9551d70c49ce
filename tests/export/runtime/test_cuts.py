"""Limits on what can be drawn: NumPy and the graph keep the same tokens, and off keeps all."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.graph.builder import Builder, tensor_type
from export.graph.onnx_model import IR_VERSION, OPSET
from export.runtime.cuts import CUTS, Cut, keep, limits_of
from export.runtime.options import OPTIONS, Sampling
from export.runtime.sampling import Sampler

# Every cut has settings here: within its range, at both ends of it, and off.
SETTINGS: dict[str, list[float]] = {
    "top_k": [1, 2, 7, 29, 30, 2**31 - 1, 0],
    "top_p": [1e-46, 1e-9, 0.2, 0.5, 0.93, np.nextafter(1, 0), 1],
}
CASES = [pytest.param(cut, value, id=f"{cut.name} {value:g}") for cut in CUTS for value in SETTINGS[cut.name]]


def scores(kind: str) -> NDArray[np.float32]:
    """Scores (3, 4, 30) of a step."""
    made = np.random.default_rng(4).normal(scale=3, size=(3, 4, 30)).astype(np.float32)
    return {"apart": made, "with ties": np.round(made / 3), "all equal": np.zeros_like(made)}[kind]


def by_graph(cut: Cut, given: NDArray[np.float32], setting: float) -> NDArray[np.float32]:
    """What the nodes of a cut keep, as ONNX Runtime runs them."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="cut")
    fed = [
        ir.Value(name="scores", type=tensor_type("float32"), shape=ir.Shape(["b", "n", "v"])),
        ir.Value(name=cut.name, type=tensor_type(cut.kind), shape=ir.Shape(list(cut.sizes))),
    ]
    graph.inputs.extend(fed)
    kept = cut.keep_in_graph(Builder(graph, None, "cut"), *fed)
    kept.name, kept.type = "kept", tensor_type("float32")
    graph.outputs.append(kept)
    content = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(["kept"], {"scores": given, cut.name: cut.limit(setting)})[0]
    return found


@pytest.mark.parametrize("kind", ["apart", "with ties", "all equal"])
@pytest.mark.parametrize(("cut", "setting"), CASES)
def test_numpy_and_the_graph_keep_the_same_tokens(cut, setting, kind) -> None:
    given = scores(kind)
    kept = cut.keep(given, setting)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(by_graph(cut, given, setting), kept)
    assert np.isfinite(kept).any(axis=-1).all()  # something always stays


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_a_cut_that_is_off_keeps_all_and_is_none_of_a_sampler(cut) -> None:
    given = scores("apart")
    np.testing.assert_array_equal(cut.keep(given, cut.off), given)
    assert Sampler(**{cut.name: cut.off}).cuts == {}
    assert getattr(Sampler(), cut.name) == cut.off


def test_cuts_are_applied_in_their_order() -> None:
    given = scores("apart")
    cuts = {"top_p": 0.5, "top_k": 3.0}
    by_k = CUTS[0].keep(given, 3)
    np.testing.assert_array_equal(keep(given, cuts), CUTS[1].keep(by_k, 0.5))
    assert [*limits_of({})] == [cut.name for cut in CUTS]


def test_every_option_of_a_drawing_is_a_setting_of_the_sampler_with_a_type() -> None:
    assert {option.name for option in OPTIONS} == set(Sampling.__annotations__)
    assert set(Sampling.__annotations__) <= set(Sampler.__dataclass_fields__)
    assert {cut.name for cut in CUTS} <= set(Sampling.__annotations__)

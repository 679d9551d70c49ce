"""A foreign graph that does not end, does not fit, or says something else than its file is refused before use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.foreign.first_run import reason
from export.foreign.trial import Row, Trial, TrialError, answered, chosen, judge, question
from export.foreign.writing import Writing
from export.runtime.manifest import Manifest
from export.runtime.sampling import Sampler

SAME = Writing((2, 2), (7, 8, 9), ((1, 4), (1, 5), (1, 6)))
DIFFERENT = Writing((2, 2), (7, 8, 9), ((1, 4), (5,), (1, 2, 3), (1, 6)), row_end=(3,))
FINE = Row(True, True, spread=1.0, largest=4.0, apart=1e-5, apart_rms=1e-6, drift=1e-5, drift_rms=1e-6)


def trial(writing: Writing = SAME, rounds: bool = False, lacks: tuple[str, ...] = ()) -> Trial:
    """A trial of nothing in particular."""
    manifest = Manifest("n", "onnx", "onnxruntime", "growing", writing.shape, 4, (2,), Sampler(), 9, call_scaled=rounds)
    return Trial(Path("model.onnx"), 0, Path(), manifest, writing, lacks)


def test_each_length_of_a_prompt_is_tried_or_the_first_and_the_last_class() -> None:
    assert chosen(SAME) == [0, 2]
    assert chosen(Writing((2, 2), (7, 8), ((1,),))) == [0]
    assert chosen(DIFFERENT) == [1, 0, 2]


def test_a_picture_is_written_in_the_ids_of_the_file() -> None:
    row = question(DIFFERENT, label=1, number=0)
    ids = [(7, 8, 9)[token] for token in row["tokens"]]
    assert row["ids"] == [5, *ids[:2], 3, *ids[2:], 3]
    assert row["predicting"] == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("row", "case", "words"),
    [
        (FINE, trial(), None),
        (replace(FINE, apart=1e-2, drift=1e-2), trial(rounds=True), None),
        (replace(FINE, file_finite=False), trial(), "its logits hold NaN or Inf"),
        (replace(FINE, apart=0.5), trial(), "driven as its inputs' names say, its logits move by up to 0.5"),
        (replace(FINE, drift=0.5), trial(), "token by token its logits differ from those of one call by up to 0.5"),
        (replace(FINE, apart_rms=0.3), trial(rounds=True), "these inputs mean something else here"),
        (replace(FINE, drift_rms=0.6), trial(rounds=True), "so it does not keep its cache, or reads what follows"),
        (
            replace(FINE, apart=0.7),
            trial(DIFFERENT, lacks=("position_ids",)),
            "prompts have 1 to 3 ids, and the shorter ones are padded, which this graph without position_ids does not "
            "hide: logits move by up to 0.7, and their spread is 1; give all prompts the same number of ids",
        ),
        (replace(FINE, finite=False), trial(DIFFERENT), "does not hide: logits become NaN or Inf"),
        (replace(FINE, drift_rms=0.6, drift=2), trial(DIFFERENT, rounds=True), "the shorter ones are padded"),
    ],
)
def test_numbers_that_are_not_those_of_the_file_are_refused(row: Row, case: Trial, words: str | None) -> None:
    if words is None:
        judge([FINE, row], case)
        return
    with pytest.raises(TrialError) as error:
        judge([FINE, row], case)
    assert words in str(error.value)


def test_what_onnxruntime_says_is_cut_to_the_node_and_the_reason() -> None:
    text = "[E] : 1 : FAIL : Non-zero status code returned while running Gather node. Name:'/g' Status Message: too far"
    assert reason(RuntimeError(text)) == "Gather /g: too far"
    assert reason(RuntimeError("Failed to allocate memory for requested buffer of size 1099511627776")) == (
        "it asks for 1,024.0 GiB of memory at once, more than is free"
    )
    assert reason(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model from a/b.onnx failed:bad")) == "bad"


def spoiled(path: Path, folder: Path, nodes: list[onnx.NodeProto]) -> Path:
    """A foreign decoder whose logits have what these nodes call `added` added."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["plain" if name == "logits" else name for name in node.output]
    model.graph.node.extend([*nodes, helper.make_node("Add", ["plain", "added"], ["logits"])])
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def constant(name: str, value: object) -> onnx.NodeProto:
    """A node that makes a constant."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def endless() -> list[onnx.NodeProto]:
    """A loop of 2^63 - 1 rounds that adds nothing."""
    kinds = (("i", onnx.TensorProto.INT64), ("go", onnx.TensorProto.BOOL), ("v", onnx.TensorProto.FLOAT))
    i, go, v, on, w = (helper.make_tensor_value_info(name, kind, []) for name, kind in (
        *kinds, ("on", onnx.TensorProto.BOOL), ("w", onnx.TensorProto.FLOAT)))  # fmt: skip
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["v"], ["w"])]
    body = helper.make_graph(nodes, "body", [i, go, v], [on, w])
    given = [constant("rounds", np.int64(2**63 - 1)), constant("first", True), constant("zero", np.float32(0))]
    return [*given, helper.make_node("Loop", ["rounds", "first", "zero"], ["added"], body=body)]


def huge() -> list[onnx.NodeProto]:
    """The largest number of 40 TB of zeros."""
    return [
        constant("size", np.array([10**6, 10**7])),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["added"], keepdims=0),
    ]


@pytest.mark.parametrize(
    ("nodes", "seconds", "words"),
    [
        (endless, 3.0, "did not end within 3 s, and may never; .* more time with  first_run_seconds"),
        (huge, 60.0, "ONNX Runtime cannot run it .* GiB of memory at once, more than is free"),
    ],
)
def test_a_graph_that_does_not_end_or_fit_is_one_line(
    foreign: Callable, tmp_path: Path, nodes: Callable, seconds: float, words: str
) -> None:
    request = {
        "source": str(spoiled(foreign().path, tmp_path, nodes())),
        "threads": 1,
        "kv_heads": (2, 2),
        "head_width": 4,
        "image_ids": SAME.image_ids,
        "steps": 2,
        "rows": [question(SAME, 0, 0)],
        "bytes_mapped": 0,
        "seconds": seconds,
    }
    with pytest.raises(TrialError, match=words) as error:
        answered(request, tmp_path, seconds)
    assert "\n" not in str(error.value)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_runtime_that_is_brought_down_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.foreign.trial.PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(TrialError, match=r"ONNX Runtime ended with signal 11 \(SIGSEGV\) when it first ran the graph"):
        answered({}, tmp_path, 60.0)

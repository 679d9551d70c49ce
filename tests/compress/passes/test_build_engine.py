"""`build-engine` builds where TensorRT is, says so where it is not, and refuses what cannot be right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from compress.core.settings import InputError, parse
from compress.models import artifact
from compress.models.artifact import Form
from compress.passes import PassError, find
from compress.passes.build_engine import BuildEngine
from compress.passes.export import Export
from export.graph.onnx_model import OnnxModel, fix_batch
from export.runtime.tensorrt import Rows, TensorRTMissingError
from export.targets import BuildError
from export.targets.tensorrt import TensorRT


@pytest.fixture(scope="module")
def exported() -> list[OnnxModel]:
    """Holds the one exported model of these tests."""
    return []


@pytest.fixture
def model(exported, tiny_model, context) -> OnnxModel:
    """A model of one layer, exported for TensorRT."""
    if not exported:
        exported.append(Export("tensorrt").run(tiny_model(layers=1), context()).model)
    return exported[0]


@pytest.fixture
def nothing_installed(monkeypatch):
    """A machine without TensorRT."""

    def refuse(*arguments: Any, **settings: Any) -> bytes:
        raise TensorRTMissingError("TensorRT is not installed; install it")

    monkeypatch.setattr(TensorRT, "builder", staticmethod(refuse))


@pytest.fixture
def builds(monkeypatch) -> list[Any]:
    """What TensorRT was asked to build, on a machine that can."""
    calls: list[Any] = []

    def record(decode: Path, manifest: Any, rows: Rows, timing_cache: Path, **settings: int) -> bytes:
        onnx.checker.check_model(str(decode))
        calls.append((decode.name, rows, timing_cache.name, settings))
        return b"serialized"

    monkeypatch.setattr(TensorRT, "builder", staticmethod(record))
    return calls


def test_the_pass_is_found_by_its_name_and_is_exact():
    assert find("build-engine", "recipe") is BuildEngine
    assert (BuildEngine.accepts, BuildEngine.returns) == (Form.ONNX, Form.ENGINE)
    assert BuildEngine.exact
    assert not BuildEngine.uses_tokens


def test_without_tensorrt_the_checked_onnx_is_handed_on_and_said_to_be_not_built(model, context, nothing_installed):
    outcome = BuildEngine().run(model, context())
    assert outcome.model is model
    assert outcome.notes.written() == {
        "not_built": "TensorRT is not installed; install it; the ONNX is written and checked: static-legal, not built"
    }


def test_without_tensorrt_a_required_build_fails(model, context, nothing_installed):
    with pytest.raises(PassError, match=r"^build-engine: required: true, but TensorRT is not installed; install it$"):
        BuildEngine(required=True).run(model, context())


def test_a_built_plan_rests_in_the_store_and_comes_back(model, context, builds, tmp_path):
    outcome = BuildEngine(max_rows=8, best_rows=4, optimization_level=5, workspace_mib=64).run(model, context())
    settings = {"optimization_level": 5, "workspace_mib": 64}
    assert builds == [("decode.onnx", Rows(1, 4, 8), "timing.cache", settings)]
    assert outcome.notes.written() == {"rows": [1, 4, 8], "plan_mib": 0.0}
    folder = tmp_path / "artifact"
    folder.mkdir()
    artifact.save(outcome.model, folder)
    read = artifact.load(folder, Form.ENGINE)
    assert isinstance(read, OnnxModel)
    assert read.plan == b"serialized"
    assert model.plan is None  # the input is left as it was


def test_a_fixed_batch_is_the_only_one_the_plan_takes(model, context, builds):
    decode = model.decode.clone()
    fix_batch(decode, 6)
    BuildEngine().run(replace(model, decode=decode), context())
    assert builds[0][1] == Rows(6, 6, 6)


@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
def test_for_other_targets_there_is_nothing_to_build(model, context, target):
    other = replace(model, manifest=replace(model.manifest, target=target))
    with pytest.raises(
        PassError,
        match=rf"^build-engine: the model was exported for {target}, which runs the ONNX as it is: there is nothing to "
        r"build; leave build-engine out, or export with target: tensorrt$",
    ):
        BuildEngine().run(other, context())


def test_a_graph_that_breaks_a_rule_is_not_handed_to_tensorrt(model, context, builds):
    decode = model.decode.clone()
    decode.opset_imports[""] = 25
    with pytest.raises(PassError, match=r"^build-engine: the graph breaks a rule of tensorrt: decode: opset 25"):
        BuildEngine().run(replace(model, decode=decode), context())
    assert builds == []


def test_a_refusal_of_tensorrt_is_quoted(model, context, monkeypatch):
    def refuse(*arguments: Any, **settings: Any) -> bytes:
        raise BuildError("TensorRT 11.4 refuses decode.onnx: node 7")

    monkeypatch.setattr(TensorRT, "builder", staticmethod(refuse))
    with pytest.raises(PassError, match=r"^build-engine: TensorRT 11\.4 refuses decode\.onnx: node 7$"):
        BuildEngine().run(model, context())


def test_rows_that_contradict_each_other_are_refused_with_their_place():
    with pytest.raises(
        InputError, match=r"^engines\.gpu\[2\]: best_rows 8 is more than max_rows 4; use at most max_rows"
    ):
        parse(BuildEngine, {"best_rows": 8, "max_rows": 4}, "engines.gpu[2]")

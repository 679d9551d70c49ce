"""`build-engine` builds where a builder is, says so where none is, and refuses what cannot be right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from compress.core.settings import InputError, parse
from compress.models import artifact
from compress.models.artifact import Form
from compress.passes import PassError, find
from compress.passes.build_engine import BuildEngine
from compress.passes.export import Export
from export.building import BuildError, process
from export.building.profiles import Rows
from export.building.request import Built, Cost, Request
from export.graph.onnx_model import OnnxModel, fix_batch
from export.runtime.built import Build, BuiltPart
from export.runtime.tensorrt import TensorRTMissingError
from export.targets.tensorrt import TensorRT


@pytest.fixture(scope="module")
def exported() -> list[OnnxModel]:
    """Holds the one exported model of these tests."""
    return []


@pytest.fixture
def model(exported, tiny_model, context) -> OnnxModel:
    """A model of one layer, exported for TensorRT, whose attention is large enough for a fused kernel."""
    if not exported:
        exported.append(Export("tensorrt").run(tiny_model(layers=1, heads=4, head_width=32), context()).model)
    return exported[0]


@pytest.fixture
def nothing_installed(monkeypatch):
    """A machine without a builder."""

    def refuse(*arguments: Any) -> Built:
        raise TensorRTMissingError("TensorRT is not installed; install it")

    monkeypatch.setattr(TensorRT, "builder", staticmethod(refuse))


PARTS = {"decode": BuiltPart(10)}
RECORD = Build("tensorrt-rtx", "1.7.1", ("8.9",), "", (1, 4, 8), PARTS, {"image_encoder": "Transpose of uint8"})


@pytest.fixture
def builds(monkeypatch) -> list[Request]:
    """What was asked of a builder, on a machine that has one."""
    calls: list[Request] = []

    def record(model: OnnxModel, request: Request) -> Built:
        onnx.checker.check_model(str(request.folder / "decode.onnx"))
        calls.append(request)
        return Built({"decode": b"serialized"}, RECORD, {"decode": Cost(1.0, 2.0, 3.0)}, ("mind this",))

    monkeypatch.setattr(TensorRT, "builder", staticmethod(record))
    return calls


def test_the_pass_is_found_by_its_name_and_is_exact():
    assert find("build-engine", "recipe") is BuildEngine
    assert (BuildEngine.accepts, BuildEngine.returns) == (Form.ONNX, Form.ENGINE)
    assert BuildEngine.exact
    assert not BuildEngine.uses_tokens


def test_without_a_builder_the_checked_onnx_is_handed_on_and_said_to_be_not_built(model, context, nothing_installed):
    outcome = BuildEngine().run(model, context())
    assert outcome.model is model
    assert outcome.notes.written() == {
        "not_built": "TensorRT is not installed; install it; the ONNX is written and checked: static-legal, not built"
    }


def test_without_a_builder_a_required_build_fails(model, context, nothing_installed):
    with pytest.raises(PassError, match=r"^build-engine: required: true, but TensorRT is not installed; install it$"):
        BuildEngine(required=True).run(model, context())


def test_built_plans_rest_in_the_store_and_come_back(model, context, builds, tmp_path):
    outcome = BuildEngine(max_rows=8, best_rows=4, compute_capability=(8.9,)).run(model, context())
    (asked,) = builds
    assert (asked.rows, asked.builder, asked.capabilities) == (Rows(1, 4, 8), "tensorrt-rtx", ("8.9",))
    assert outcome.notes.written() == {
        "builder": "TensorRT for RTX 1.7.1",
        "capabilities": ["8.9"],
        "rows": [1, 4, 8],
        "plan_mib": 0.0,
        "plans": {"decode": {"plan_mib": 0.0, "seconds": 1.0, "processor_seconds": 2.0, "peak_mib": 3.0}},
        "parts_not_built": {"image_encoder": "Transpose of uint8"},
        "warnings": ["mind this"],
    }
    folder = tmp_path / "artifact"
    folder.mkdir()
    artifact.save(outcome.model, folder)
    read = artifact.load(folder, Form.ENGINE)
    assert isinstance(read, OnnxModel)
    assert read.plans == {"decode": b"serialized"}
    assert read.manifest.build == RECORD
    assert not model.plans  # the input is left as it was


def test_a_required_build_needs_every_graph(model, context, builds):
    with pytest.raises(PassError, match=r"required: true, but image_encoder cannot be built: Transpose of uint8$"):
        BuildEngine(required=True, compute_capability=(8.9,)).run(model, context())


def test_settings_of_the_classic_builder_choose_it(model, context, builds):
    BuildEngine(optimization_level=5, workspace_mib=64).run(model, context())
    assert (builds[0].builder, builds[0].optimization_level, builds[0].workspace_mib) == ("tensorrt", 5, 64)


def test_a_fixed_batch_is_the_only_one_the_plan_takes(model, context, builds):
    decode = model.decode.clone()
    fix_batch(decode, 6)
    BuildEngine().run(replace(model, decode=decode), context())
    assert builds[0].rows == Rows(6, 6, 6)


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
    next(node for node in decode.graph if node.op_type == "Attention").attributes.add(ir.AttrFloat32("softcap", 30.0))
    with pytest.raises(PassError, match=r"^build-engine: the graph breaks a rule of tensorrt: decode: .* has softcap"):
        BuildEngine().run(replace(model, decode=decode), context())
    assert builds == []


def test_a_refusal_of_tensorrt_is_quoted(model, context, monkeypatch):
    def refuse(*arguments: Any) -> Built:
        raise BuildError("TensorRT 11.4 refuses decode.onnx: node 7")

    monkeypatch.setattr(TensorRT, "builder", staticmethod(refuse))
    with pytest.raises(PassError, match=r"^build-engine: TensorRT 11\.4 refuses decode\.onnx: node 7$"):
        BuildEngine().run(model, context())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"best_rows": 8, "max_rows": 4}, r"best_rows 8 is more than max_rows 4; use at most max_rows"),
        (
            {"compute_capability": [9.0]},
            r"compute_capability: 9\.0 is no compute capability that TensorRT for RTX builds for; it knows 7\.5, 8\.0",
        ),
        ({"compute_capability": [8.9, 8.9]}, r"compute_capability: 8\.9, 8\.9 names one twice"),
        (
            {"builder": "tensorrt-rtx", "optimization_level": 3},
            r"optimization_level means nothing to tensorrt-rtx, which chooses kernels on the GPU; leave it out",
        ),
        ({"compute_capability": [8.9], "workspace_mib": 64}, r"workspace_mib means nothing to tensorrt-rtx"),
        (
            {"builder": "tensorrt", "compute_capability": [8.9]},
            r"compute_capability is for tensorrt-rtx; tensorrt builds for the device that it finds, so leave it out",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_their_place(settings, words):
    with pytest.raises(InputError, match=rf"^engines\.gpu\[2\]: {words}"):
        parse(BuildEngine, settings, "engines.gpu[2]")


def test_plans_are_keyed_by_what_builds_them():
    found = BuildEngine(builder="tensorrt-rtx").environment()
    assert found == {"builder": "tensorrt-rtx", "version": process.installed() or process.missing()}
    assert BuildEngine(builder="tensorrt").environment()["builder"] == "tensorrt"


# The real thing


@pytest.mark.tensorrt_rtx
def test_every_graph_of_a_model_is_really_built_and_the_manifest_says_how_it_computes(model, context, tmp_path):
    outcome = BuildEngine(builder="tensorrt-rtx", max_rows=4, required=True).run(model, context())
    build = outcome.model.manifest.build
    assert set(outcome.model.plans) == set(model.graphs) == set(build.parts)
    assert (build.builder, build.version) == ("tensorrt-rtx", process.installed())
    assert build.capabilities == ("8.6", "8.9", "12.0")
    (step,) = build.parts["decode"].evidence
    assert (step.profile, step.attentions, step.fused, step.caches, step.in_place) == ("step", 1, 1, 2, 2)
    outcome.model.save(tmp_path)
    read = OnnxModel.load(tmp_path)
    assert (read.plans, read.manifest.build) == (outcome.model.plans, build)
    notes = outcome.notes.written()
    assert notes["builder"] == f"TensorRT for RTX {process.installed()}"
    assert set(notes["plans"]) == set(model.graphs)
    assert all(each["processor_seconds"] > 0 for each in notes["plans"].values())


@pytest.mark.tensorrt_rtx
def test_the_same_model_gives_the_same_plans(model, context):
    first, again = (BuildEngine(builder="tensorrt-rtx", max_rows=4).run(model, context()).model for _ in range(2))
    assert first.plans == again.plans
    assert first.manifest == again.manifest

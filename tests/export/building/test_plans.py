"""Plans of every kind of model, really built: all graphs of an engine, in float32 and in float16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.building import BuildError
from export.building.plans import build, chosen, machine
from export.building.profiles import PREFILL, STEP, WHOLE, Rows
from export.building.request import Request
from export.graph.onnx_model import OnnxModel
from export.runtime.errors import RunnerMissingError
from export.runtime.manifest import Floats
from export.targets import in_floats

PROFILES = {
    "rotary": [STEP],
    "lead": [STEP, PREFILL],
    "modulated": [STEP, PREFILL],
    "text": [STEP, PREFILL],
    "masked": [WHOLE],
    "u-vit": [WHOLE],
    "class token": [WHOLE],
    "next-scale": [WHOLE],
    "int8 static": [STEP],
}
ROWS = Rows(1, 2, 4)


@pytest.mark.slow
@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("floats", ["float32", "float16"])
@pytest.mark.parametrize("kind", PROFILES)
def test_every_graph_of_every_kind_of_model_is_built(
    exported: Callable[..., OnnxModel], kind: str, floats: Floats, tmp_path: Path
):
    model = exported(kind, "tensorrt")
    if floats != "float32":
        model = in_floats(model, floats).model
    model.save(tmp_path)
    built = build(model, Request(tmp_path, ROWS))
    assert built.record is not None
    assert built.record.not_built == {}
    assert set(built.plans) == set(model.graphs)
    decode = built.record.parts["decode"].evidence
    assert [each.profile for each in decode] == PROFILES[kind]
    for each in decode:
        assert (each.low, each.in_place, each.unpacked) == (each.asked, each.caches, 0)
    assert all(cost.processor_seconds > 0 for cost in built.costs.values())


@pytest.mark.tensorrt_rtx
def test_a_format_that_a_capability_lacks_is_refused_before_the_build(
    exported: Callable[..., OnnxModel], tmp_path: Path
):
    model = exported("narrow heads", "tensorrt")
    with pytest.raises(
        BuildError, match=r"^float32 products \(first at .* of decode\): compute capability 7\.5 has none"
    ):
        build(model, Request(tmp_path, ROWS, capabilities=("7.5", "8.9")))


@pytest.mark.tensorrt_rtx
def test_a_log_that_lists_no_layers_fails_the_build(
    exported: Callable[..., OnnxModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = exported("narrow heads", "tensorrt")
    model.save(tmp_path)
    monkeypatch.setattr("export.building.layers.START", "Kernels:")
    with pytest.raises(
        BuildError, match=r"^decode\.onnx was built by TensorRT for RTX 1\S+, but the builder's log has"
    ):
        build(model, Request(tmp_path, ROWS))


def test_where_nothing_is_installed_the_cure_is_said(
    exported: Callable[..., OnnxModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("export.building.process.installed", lambda: "")
    with pytest.raises(RunnerMissingError, match="TensorRT for RTX is not installed; pip install"):
        build(exported("narrow heads", "tensorrt"), Request(tmp_path, ROWS))
    assert "is not installed" in machine("tensorrt-rtx")["version"]


@pytest.mark.parametrize(
    ("asked", "for_capabilities", "for_classic", "device", "expected"),
    [
        ("auto", False, False, False, "tensorrt-rtx"),
        ("auto", False, False, True, "tensorrt"),
        ("auto", True, False, True, "tensorrt-rtx"),
        ("auto", False, True, False, "tensorrt"),
        ("tensorrt", False, False, False, "tensorrt"),
        ("tensorrt-rtx", False, False, True, "tensorrt-rtx"),
    ],
)
def test_the_builder_follows_from_the_settings_and_what_is_here(
    asked: str, for_capabilities: bool, for_classic: bool, device: bool, expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("export.building.classic.missing", lambda: "" if device else "no device")
    assert chosen(asked, for_capabilities=for_capabilities, for_classic=for_classic) == expected

"""What is asked of the classic TensorRT, against a stand-in; the real thing where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from export.building import BuildError
from export.building.classic import build, machine, missing
from export.building.profiles import Rows, decode_sizes, profiles
from export.graph.onnx_model import OnnxModel
from export.runtime.engine import Engine
from export.runtime.manifest import DECODE
from export.runtime.tensorrt import TensorRTMissingError


@pytest.fixture
def model(exported: Callable[..., OnnxModel]) -> OnnxModel:
    """A model with grouped queries, exported for TensorRT."""
    return exported("narrow heads", "tensorrt")


def asked(model: OnnxModel, rows: Rows) -> list:
    """The profiles of its decode graph."""
    return profiles(model.decode.graph, decode_sizes(model.manifest.shape, rows))


class Recorded:
    """A stand-in for a parsed network with one attention, a builder, and the config that is asked for."""

    def __init__(self, fake: mock.MagicMock, refusal: str = "") -> None:
        self.fake, self.config = fake, mock.MagicMock(name="config")
        self.builder, self.network = mock.MagicMock(name="builder"), mock.MagicMock(name="network")
        self.layer = type("Layer", (), {"type": fake.LayerType.ATTENTION_INPUT, "attention": SimpleNamespace()})()
        fake.IAttentionInputLayer = type(self.layer)
        fake.Builder.return_value = self.builder
        self.network.num_layers, self.network.get_layer.return_value = 1, self.layer
        inputs = ("tokens", "position", "past.0.key", "past.0.value")
        self.network.num_inputs = len(inputs)
        self.network.get_input.side_effect = [self.input(name) for name in inputs].__getitem__
        self.builder.create_network.return_value = self.network
        self.builder.create_builder_config.return_value = self.config
        self.builder.build_serialized_network.return_value = b"plan"
        self.config.get_timing_cache.return_value = None
        del self.config.int8_calibrator  # TensorRT 11 has no calibrators
        parser = fake.OnnxParser.return_value
        parser.num_errors, parser.get_error.return_value = bool(refusal), refusal
        parser.parse_from_file.return_value = not refusal

    @staticmethod
    def input(name: str) -> SimpleNamespace:
        """An input of the network."""
        shape = () if name == "position" else (-1, -1) if name == "tokens" else (-1, 2, 16, 8)
        return SimpleNamespace(name=name, shape=shape, is_shape_tensor=False, dtype=None)


def test_a_build_is_strongly_typed_without_precision_flags_and_lets_attention_be_taken_apart(
    model, installed, tmp_path, monkeypatch
):
    recorded = Recorded(installed)
    monkeypatch.setattr("polygraphy.backend.trt.util.str_from_config", lambda config, network: "")
    (profile,) = asked(model, Rows(1, 2, 16))
    plan = build(tmp_path / "decode.onnx", [profile], tmp_path / "timing.cache", optimization_level=5, workspace_mib=64)
    assert plan == b"plan"
    assert recorded.builder.create_network.call_args == mock.call(flags=1 << 0)
    assert recorded.config.set_flag.call_args_list == []  # no FP16, INT8, FP8 or TF32: precision lies in the graph
    assert recorded.layer.attention.decomposable is True
    assert recorded.config.builder_optimization_level == 5
    assert recorded.config.set_memory_pool_limit.call_args == mock.call(installed.MemoryPoolType.WORKSPACE, 64 << 20)
    shapes = recorded.builder.create_optimization_profile.return_value
    given = {call.args[0]: call.args[1:] for call in shapes.set_shape.call_args_list}
    assert [list(shape) for shape in given.pop("position")] == [[], [], []]
    assert given == profile.shapes


def test_a_parser_that_refuses_is_quoted(model, installed, tmp_path, capsys):
    Recorded(installed, refusal="In node 7 (importTopK): UNSUPPORTED_NODE: K is too large")
    with pytest.raises(
        BuildError, match=r"^TensorRT 11\.4\.0 refuses decode\.onnx: .*In node 7 \(importTopK\).*too large"
    ):
        build(tmp_path / "decode.onnx", asked(model, Rows(1, 1, 1)), tmp_path / "timing.cache")
    assert capsys.readouterr().out == ""


def test_a_plan_is_for_the_version_and_the_device_that_are_found(installed):
    version, device = machine()
    assert version == "11.4.0"
    assert device
    assert missing() == ""


def test_why_nothing_can_be_built_is_said(monkeypatch):
    def nothing() -> None:
        raise TensorRTMissingError("TensorRT is not installed")

    monkeypatch.setattr("export.building.classic.require", nothing)
    assert missing() == "TensorRT is not installed"


@pytest.mark.tensorrt
@pytest.mark.skipif(bool(missing()), reason="needs TensorRT's builder and a CUDA device; stand-ins above pin the calls")
def test_a_built_plan_draws_what_its_onnx_draws(model, tmp_path):
    model.save(tmp_path)
    plan = build(tmp_path / DECODE, asked(model, Rows(1, 2, 4)), tmp_path / "timing.cache")
    folder = tmp_path / "engine"
    folder.mkdir()
    model.with_plans({"decode": plan}).save(folder)
    engine, graph = Engine.load(folder, threads=1), Engine.load(tmp_path, threads=1)
    assert engine.runtime == "tensorrt"
    inputs = np.arange(4 * 16, dtype=np.int64).reshape(4, 16) % 17
    np.testing.assert_allclose(engine.score(inputs), graph.score(inputs), atol=2e-3)

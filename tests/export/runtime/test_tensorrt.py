"""What is asked of TensorRT, and decoding through a plan, against stand-ins; the real thing where there is a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch

from compress.models.image_model import ImageModel
from compress.passes.export import Export
from export.graph.onnx_model import OnnxModel
from export.runtime import tensorrt
from export.runtime.engine import Engine, EngineError
from export.runtime.tensorrt import TensorRTMissingError, require

DTYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}


@pytest.fixture(scope="module")
def model(tiny_tokens: object, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """A model of one grouped-query layer, exported for TensorRT."""
    from compress.models.tokenizer.model import PixelTokenizer
    from compress.models.transformer.architecture import LayerConfig, TransformerConfig
    from compress.models.transformer.model import TokenTransformer
    from export.runtime.sampling import Sampler

    config = TransformerConfig(17, 10, (4, 4), 32, 8, (LayerConfig(4, 2, 40),), rotary_base=100.0)
    transformer = TokenTransformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.dim() < 2))
    image_model = ImageModel(
        "tiny", "reference", transformer.eval(), PixelTokenizer(17, (4, 4)), Sampler(cfg_scale=1.5)
    )
    return Export("tensorrt").run(image_model, None).model  # type: ignore[arg-type]


# Whether TensorRT is here


def test_tensorrt_that_is_not_installed_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TensorRTMissingError, match=r"^TensorRT is not installed; .*pip install 'tensorrt>=11' 'polygraphy>=0.53.6'$"
    ):
        require()


def test_bindings_without_their_library_are_told_apart(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(TensorRTMissingError, match=r"bindings are installed.*\(libnvinfer\.so\.11: cannot open"):
        require()


def test_an_old_tensorrt_is_refused(installed):
    installed.__version__ = "10.3.0"
    with pytest.raises(TensorRTMissingError, match=r"^TensorRT 10\.3\.0 is installed, but 11 or newer is needed"):
        require()


def test_tensorrt_without_a_device_is_told_apart(installed, monkeypatch):
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: 0)
    with pytest.raises(TensorRTMissingError, match=r"^TensorRT 11\.4\.0 is installed, but no CUDA device is visible"):
        require()


def test_tensorrt_without_a_builder_can_still_run_plans(installed):
    installed.Builder.side_effect = TypeError("factory function returned nullptr")
    with pytest.raises(TensorRTMissingError, match=r"has no builder here \(factory function returned nullptr\)"):
        require()
    assert require(build=False) is installed


def test_tensorrt_without_polygraphy_builds_nothing(installed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TensorRTMissingError, match="Polygraphy is not"):
        require()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a CUDA device")
def test_a_machine_without_a_driver_has_no_devices():
    assert tensorrt.cuda_devices() == 0


# Decoding: a stand-in engine that runs the same ONNX on the addresses it is given


class OnnxContext:
    """An execution context that runs a graph in ONNX Runtime on raw addresses, as TensorRT does on the device."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session, self.shapes, self.addresses = session, {"position": ()}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Remember a shape; rows beyond the profile's 3 are refused."""
        self.shapes[name] = shape
        return shape[0] <= 3

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Remember an address."""
        self.addresses[name] = address
        return name in {value.name for value in (*self.session.get_inputs(), *self.session.get_outputs())}

    def infer_shapes(self) -> list[str]:
        """Inputs that nothing was said of."""
        return [value.name for value in self.session.get_inputs() if value.name not in self.addresses]

    def execute_async_v3(self, stream: int) -> bool:
        """Run once."""
        feeds = {}
        for value in self.session.get_inputs():
            shape, dtype = self.shapes[value.name], np.dtype(DTYPES[value.type])
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            raw = ctypes.string_at(self.addresses[value.name], size)
            feeds[value.name] = np.frombuffer(raw, dtype).reshape(shape)
        names = [value.name for value in self.session.get_outputs()]
        for name, array in zip(names, self.session.run(names, feeds), strict=True):
            ctypes.memmove(self.addresses[name], array.ctypes.data, array.nbytes)
        return True


@pytest.fixture
def device(installed: mock.MagicMock, monkeypatch: pytest.MonkeyPatch, model: OnnxModel, tmp_path: Path) -> Path:
    """An engine folder with a plan of at most 3 rows, on a stand-in device."""
    return stand_in(model, installed, monkeypatch, tmp_path)


def stand_in(model: OnnxModel, installed: mock.MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An engine folder of a model with a plan of at most 3 rows, on a stand-in device."""
    model.with_plans({"decode": b"serialized"}).save(tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "decode.onnx"), providers=["CPUExecutionProvider"])
    engine = mock.MagicMock(name="engine")
    engine.get_tensor_profile_shape.return_value = [(1, 1), (2, 1), (3, 1)]
    engine.create_execution_context.side_effect = lambda: OnnxContext(session)
    installed.Runtime.return_value.deserialize_cuda_engine.return_value = engine
    cuda = SimpleNamespace(
        Stream=lambda: SimpleNamespace(cuda_stream=0),
        stream=lambda stream: contextlib.nullcontext(),
        get_device_name=lambda: "stand-in",
    )
    on_cpu: dict[str, Any] = {
        "zeros": lambda shape, dtype, device: torch.zeros(shape, dtype=dtype),
        "from_numpy": torch.from_numpy,
        "int64": torch.int64,
        "float32": torch.float32,
        "cuda": cuda,
    }
    monkeypatch.setattr(tensorrt, "torch_with_cuda", lambda: SimpleNamespace(**on_cpu))
    return tmp_path


def on_onnxruntime(folder: Path) -> Engine:
    """The same folder without its plan."""
    engine = Engine.load(folder, threads=1)
    engine.plan = None
    return engine


@pytest.mark.parametrize("pictures", [1, 2, 5])
def test_a_plan_draws_the_same_tokens_as_its_onnx(device, pictures):
    engine = Engine.load(device, threads=1)
    assert engine.runtime == "tensorrt"
    labels = np.arange(pictures, dtype=np.int64)
    drawn = engine.draw_tokens(labels, seed=3)  # 10 rows of 5 guided pictures are 4 parts of at most 3
    assert (drawn == on_onnxruntime(device).draw_tokens(labels, seed=3)).all()
    assert (engine.draw_tokens(labels, seed=3) == drawn).all()  # what an earlier picture left in the cache is not seen


def test_a_masked_models_plan_takes_whole_pictures_and_their_classes(tiny_model, installed, monkeypatch, tmp_path):
    made = tiny_model(layers=1, grid=(4, 4), order="masked", positions="learned", modulation="class", tied_head=True)
    model = Export("tensorrt").run(made, None).model
    engine = Engine.load(stand_in(model, installed, monkeypatch, tmp_path), threads=1)
    assert engine.runtime == "tensorrt"
    labels = np.array([1, 7])  # 4 rows under guidance: two parts
    drawn = engine.draw_tokens(labels, seed=3)
    assert (drawn == on_onnxruntime(tmp_path).draw_tokens(labels, seed=3)).all()
    assert (drawn == made.draw_tokens(labels, seed=3)).all()


def test_a_plan_scores_what_it_deploys(device):
    inputs = np.arange(4 * 16, dtype=np.int64).reshape(4, 16) % 17
    expected = on_onnxruntime(device).score(inputs)
    np.testing.assert_allclose(Engine.load(device, threads=1).score(inputs), expected, atol=1e-5)


def test_past_and_present_share_one_address(device):
    engine = Engine.load(device, threads=1)
    (part,) = engine.plan.loop(2).parts
    for name in ("0.key", "0.value"):
        assert part.context.addresses[f"past.{name}"] == part.context.addresses[f"present.{name}"]


def test_fewer_rows_than_a_plan_takes_are_filled_up(device, installed):
    engine_type = installed.Runtime.return_value.deserialize_cuda_engine.return_value
    engine_type.get_tensor_profile_shape.return_value = [(3, 1), (3, 1), (3, 1)]
    engine = Engine.load(device, threads=1)
    tokens = np.array([[4]], dtype=np.int64)
    loop = engine.plan.loop(1)
    assert loop.parts[0].buffers["tokens"].shape == (3, 1)
    np.testing.assert_allclose(loop.step(tokens), on_onnxruntime(device)._loop(1).step(tokens), atol=1e-5)


def test_a_plan_of_another_gpu_is_refused_with_what_to_do(device, installed):
    installed.Runtime.return_value.deserialize_cuda_engine.return_value = None
    with pytest.raises(
        EngineError, match=r"decode\.plan: TensorRT 11\.4\.0 cannot load it on stand-in; .*build it again"
    ):
        Engine.load(device)


def test_a_plan_of_another_graph_is_refused(device, installed):
    engine = Engine.load(device)
    engine.plan.manifest = replace(engine.manifest, kv_heads=(2, 2))
    with pytest.raises(EngineError, match=r"the plan has no tensor past\.1\.key; it was built from another graph"):
        engine.plan.loop(1)


def test_a_shape_beyond_the_profile_is_refused(device):
    engine = Engine.load(device)
    engine.plan.largest = 8
    with pytest.raises(EngineError, match=r"the plan does not take tokens of shape \(8, 1\)"):
        engine.plan.loop(8)


def test_a_step_that_fails_is_an_error(device):
    loop = Engine.load(device).plan.loop(1)
    loop.parts[0].context.execute_async_v3 = lambda stream: False
    with pytest.raises(EngineError, match="TensorRT could not run a step at position 0"):
        loop.step(np.zeros((1, 1), dtype=np.int64))


def test_a_plan_with_an_input_that_nothing_feeds_is_refused(device, monkeypatch):
    monkeypatch.setattr(OnnxContext, "infer_shapes", lambda self: ["mask"])
    with pytest.raises(EngineError, match=r"the plan has inputs that nothing feeds \(mask\)"):
        Engine.load(device).plan.loop(1)


def test_without_tensorrt_the_folder_draws_in_onnx_runtime(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    model.with_plans({"decode": b"serialized"}).save(tmp_path)
    engine = Engine.load(tmp_path, threads=1)
    assert engine.runtime == "onnxruntime"
    assert engine.draw_tokens(np.arange(2)).shape == (2, 16)


def test_pytorch_without_cuda_cannot_run_a_plan():
    if torch.cuda.is_available():
        pytest.skip("PyTorch has CUDA here")
    with pytest.raises(TensorRTMissingError, match=r"needs PyTorch with CUDA; PyTorch .* has none here"):
        tensorrt.torch_with_cuda()


# A built plan at rest


def test_a_plan_survives_its_folder(model, tmp_path):
    model.with_plans({"decode": b"serialized"}).save(tmp_path)
    read = OnnxModel.load(tmp_path)
    assert read.plans == {"decode": b"serialized"}
    assert read.manifest == replace(model.with_plans({"decode": b"serialized"}).manifest, cpu="any")
    assert not model.plans
    assert "plan" not in model.manifest.files


def test_a_damaged_plan_is_found_by_its_hash(model, tmp_path):
    model.with_plans({"decode": b"serialized"}).save(tmp_path)
    (tmp_path / "decode.plan").write_bytes(b"other")
    with pytest.raises(EngineError, match=r"decode\.plan: damaged"):
        OnnxModel.load(tmp_path)


# The real thing


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is None,
    reason="needs TensorRT's bindings, to compare signatures with our calls",
)
def test_every_call_exists_in_the_bindings():
    trt = pytest.importorskip("tensorrt", exc_type=ImportError)
    for kind, names in {
        "Runtime": ["deserialize_cuda_engine"],
        "ICudaEngine": ["create_execution_context", "get_tensor_profile_shape", "get_tensor_location"],
        "IExecutionContext": ["set_input_shape", "set_tensor_address", "infer_shapes", "execute_async_v3"],
        "IAttention": ["decomposable"],
    }.items():
        assert [name for name in names if not hasattr(getattr(trt, kind), name)] == []
    assert not {"FP16", "INT8", "FP8", "BF16"} & set(trt.BuilderFlag.__members__)

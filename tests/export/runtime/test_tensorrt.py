"""Plans are opened where this machine can run them; elsewhere one line says why, and ONNX Runtime draws."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorrt_stand_in import HostGpu, with_plans

from compress.models.image_model import ImageModel
from compress.passes.export import Export
from export.graph.onnx_model import OnnxModel
from export.runtime import tensorrt
from export.runtime.engine import Engine, EngineError
from export.runtime.errors import PlanWarning
from export.runtime.tensorrt import TensorRTMissingError, require, require_rtx


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


# Which machine can run what was built


def refused(folder: Path) -> str:
    """Why ONNX Runtime draws instead, which is the only warning."""
    with pytest.warns(PlanWarning) as said:
        engine = Engine.load(folder, threads=1)
    assert engine.runtime == "onnxruntime"
    assert not engine.runs_as_deployed
    assert engine.draw_tokens(np.arange(2)).shape == (2, 16)
    (text,) = (str(each.message) for each in said)
    assert text.startswith(f"{folder}: ")
    assert text.endswith("; ONNX Runtime draws instead")
    with pytest.raises(EngineError) as error:
        Engine.load(folder, threads=1, require_plan=True)
    reason = text.removeprefix(f"{folder}: ").removesuffix("; ONNX Runtime draws instead")
    assert str(error.value) == f"{folder}: {reason}"
    return reason


def test_a_machine_without_tensorrt_for_rtx_draws_in_onnx_runtime(model, on_stand_in, monkeypatch):
    folder, _ = on_stand_in(model)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert refused(folder) == (
        "TensorRT for RTX is not installed; pip install tensorrt-rtx-cu13==1.7.1.116, on a machine with an NVIDIA GPU"
    )


def test_a_library_that_does_not_load_is_told_apart(model, on_stand_in, monkeypatch, tmp_path):
    folder, _ = on_stand_in(model)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refused(folder).startswith(
        "TensorRT for RTX is installed, but its library does not load (libtensorrt_rtx.so.1: cannot open)"
    )


def test_plans_of_another_version_are_not_loaded(model, on_stand_in):
    folder, library = on_stand_in(model, version="1.7.1.116")
    library.__version__ = "1.8.0.1"
    assert refused(folder) == (
        "the plans are of TensorRT for RTX 1.7.1.116, and 1.8.0.1 is installed, which does not load them; build them "
        "again, or pip install tensorrt-rtx-cu13==1.7.1.116, on a machine with an NVIDIA GPU"
    )


def test_plans_of_another_classic_version_are_not_loaded(model, on_stand_in):
    folder, library = on_stand_in(model, "tensorrt")
    library.__version__ = "11.5.0"
    assert refused(folder) == (
        "the plans are of TensorRT 11.4.0, and 11.5.0 is installed, which does not load them; build them again"
    )


def test_a_machine_without_a_driver_is_told_so(model, on_stand_in, monkeypatch):
    folder, _ = on_stand_in(model)
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: 0)
    assert refused(folder) == ("TensorRT for RTX 1.7.1.116 is installed, but no CUDA device is visible to its driver")


def test_pytorch_without_cuda_is_told_so(model, on_stand_in, monkeypatch):
    folder, _ = on_stand_in(model)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7.1.116", **library_calls()))
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "running a plan needs PyTorch with CUDA" in refused(folder)


def library_calls() -> dict[str, object]:
    """What is asked of the module before a device is."""
    return {"ILogger": type("ILogger", (), {}), "Runtime": lambda logger: None}


@pytest.mark.parametrize(
    ("capability", "cure"),
    [
        ("7.5", "build them again with  compute_capability: [7.5]"),
        ("9.0", "TensorRT for RTX has none for it; build them there with  builder: tensorrt"),
    ],
)
def test_plans_for_other_gpus_are_not_loaded(model, on_stand_in, monkeypatch, capability, cure):
    folder, _ = on_stand_in(model, capabilities=("8.6", "8.9", "12.0"))
    monkeypatch.setattr(HostGpu, "capability", capability)
    assert refused(folder) == (
        f"the plans are for compute capability 8.6, 8.9, 12.0, and stand-in has {capability}; {cure}"
    )


def test_plans_for_the_device_that_built_them_run_on_no_other(model, on_stand_in):
    folder, _ = on_stand_in(model, "tensorrt", device="NVIDIA H100")
    assert refused(folder) == "the plans are for NVIDIA H100, and this is stand-in; build them again here"


def test_a_graph_that_every_drawing_needs_must_have_a_plan(exported, on_stand_in):
    folder, _ = on_stand_in(exported("text", "tensorrt"), without=("begin",))
    with pytest.warns(PlanWarning, match=r"begin\.onnx has no plan: it was refused; ONNX Runtime draws instead$"):
        assert Engine.load(folder, threads=1).plan is None


def test_a_plan_that_is_cut_off_is_an_error(model, on_stand_in):
    folder, _ = on_stand_in(model)
    made = with_plans(model)
    replace(made, plans={**made.plans, "decode": b"plan of decod"}).save(folder)
    with pytest.raises(
        EngineError,
        match=r"decode\.plan: TensorRT for RTX 1\.7\.1\.116 cannot load it on stand-in \(The plan is cut off\); build",
    ):
        Engine.load(folder)


def test_plans_that_nobody_recorded_are_of_the_classic_tensorrt(model, on_stand_in):
    folder, _ = on_stand_in(model, "tensorrt")
    made = with_plans(model)
    made.with_plans(made.plans).save(folder)
    assert Engine.load(folder, threads=1).runtime == "tensorrt"


def test_an_engine_without_plans_can_be_refused(model, tmp_path):
    model.save(tmp_path)
    with pytest.raises(EngineError, match="holds no plan; build one with  build-engine"):
        Engine.load(tmp_path, require_plan=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Engine.load(tmp_path).plan is None


def test_an_engine_of_onnx_runtime_needs_no_plan(exported, tmp_path):
    exported("grouped").save(tmp_path)
    assert Engine.load(tmp_path, require_plan=True).runs_as_deployed


def test_a_device_of_onnx_runtime_and_a_plan_are_not_asked_for_at_once(model, tmp_path):
    model.save(tmp_path)
    with pytest.raises(ValueError, match="require_plan: on a device that is named ONNX Runtime runs an engine"):
        Engine.load(tmp_path, device="cpu", require_plan=True)


def test_a_device_that_is_named_leaves_the_plan_alone(model, on_stand_in):
    folder, _ = on_stand_in(model)
    assert Engine.load(folder, threads=1, device="cpu").runtime == "onnxruntime"


@pytest.mark.tensorrt_rtx
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_real_library_without_a_device_is_one_line():
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX")
    with pytest.raises(TensorRTMissingError, match=r"^TensorRT for RTX [\d.]+ is installed, but no CUDA device"):
        require_rtx()

"""One plan: what it refuses in one line, and the kernels that are kept beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorrt_stand_in import BINDINGS, Checked, HostGpu, Library, signatures, takes

from export.runtime.engine import Engine, EngineError
from export.runtime.plan import Call, Gpu, parts_of
from export.runtime.plan_loop import PlanLoop


@pytest.fixture
def opened(exported: Callable[..., Any], on_stand_in: Callable[..., Any]) -> tuple[Engine, PlanLoop, Library]:
    """An engine, a loop of two rows of it, and the stand-in below."""
    folder, library = on_stand_in(exported("lead", "tensorrt"), "tensorrt")
    engine = Engine.load(folder, threads=1)
    loop = engine._loop(2)
    assert isinstance(loop, PlanLoop)
    return engine, loop, library


def rebound(loop: PlanLoop, **changes: Any) -> None:
    """Bind the step again to other tensors; None leaves one out."""
    (step,) = loop.steps
    step.bind({name: tensor for name, tensor in {**step.bound, **changes}.items() if tensor is not None})


def test_a_plan_of_another_graph_is_refused(opened) -> None:
    _, loop, _ = opened
    with pytest.raises(EngineError, match=r"the plan has no tensor past\.2\.key; it was built from another graph"):
        rebound(loop, **{"past.2.key": torch.zeros(1)})
    with pytest.raises(EngineError, match=r"the plan has inputs that nothing feeds \(position\)"):
        rebound(loop, position=None)


def test_an_input_that_the_library_misses_is_named(opened, monkeypatch) -> None:
    _, loop, library = opened
    monkeypatch.setattr(type(library.contexts[0]), "infer_shapes", lambda self: ["mask"])
    with pytest.raises(EngineError, match=r"the plan has inputs that nothing feeds \(mask\)"):
        rebound(loop)


def test_a_shape_beyond_all_profiles_is_refused(opened) -> None:
    _, loop, _ = opened
    with pytest.raises(EngineError, match=r"the plan has no profile for tokens \(9, 1\), labels \(2,\)$"):
        rebound(loop, tokens=torch.zeros((9, 1), dtype=torch.int64))


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address", "set_optimization_profile_async"])
def test_what_the_library_does_not_take_is_refused_with_its_reason(opened, monkeypatch, call) -> None:
    engine, loop, library = opened
    monkeypatch.setattr(type(library.contexts[0]), call, lambda self, *given: False)
    engine.plan.decode.library.said.log(SimpleNamespace(name="ERROR"), "Too\n  large")
    with pytest.raises(EngineError, match=r"decode\.plan: the plan does not take .* \(Too large\)$"):
        loop.calls_of(2)  # the first that another profile takes


def test_a_call_that_fails_is_an_error(opened) -> None:
    _, loop, library = opened
    for context in library.contexts:
        context.works = False
    with pytest.raises(EngineError, match=r"decode\.plan: TensorRT 11\.4\.0 could not run it$"):
        loop.step(np.zeros((2, 1), dtype=np.int64))


def test_a_device_without_room_is_said(opened, monkeypatch) -> None:
    engine, _, _ = opened
    monkeypatch.setattr(engine.plan.decode.engine.does, "create_execution_context", lambda *given: None)
    with pytest.raises(EngineError, match=r"TensorRT 11\.4\.0 has no room to run it on stand-in$"):
        engine._loop(1)


def test_pytorch_that_finds_no_room_is_one_line(opened, monkeypatch) -> None:
    engine, _, _ = opened

    def full(*given: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(EngineError, match=r"no room for so many pictures at once; draw fewer \(CUDA out of memory"):
        engine.draw_tokens(np.array([1]))


def test_a_step_that_cannot_be_captured_runs_plainly(opened, monkeypatch) -> None:
    engine, _, library = opened
    tries = []

    def refusing(self: HostGpu, stream: Any, start: Callable[[], None]) -> None:
        tries.append(start)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(HostGpu, "captured", refusing)
    engine.generate([1])
    assert len(tries) == 1
    assert max(context.calls for context in library.contexts) == 15


def test_rows_are_cut_into_parts_and_the_last_is_filled_up() -> None:
    assert [*parts_of(5, 1, 3)] == [slice(0, 3), slice(3, 5)]
    assert [*parts_of(4, 2, 3)] == [slice(0, 3), slice(3, 5)]
    assert [*parts_of(1, 1, 3)] == [slice(0, 1)]


# Kernels that were compiled on this machine


@pytest.fixture
def kept(exported: Callable[..., Any], on_stand_in: Callable[..., Any]) -> tuple[Path, Library]:
    """An engine folder and the stand-in that compiles for it."""
    return on_stand_in(exported("grouped", "tensorrt"))


def taken(folder: Path) -> bytes:
    """The kernels that a new process begins with."""
    plan: Any = Engine.load(folder, threads=1).plan
    found: bytes = plan.decode.kernels.cache.does.taken
    return found


def test_compiled_kernels_are_kept_beside_the_plan(kept) -> None:
    folder, library = kept
    assert taken(folder) == b""
    Engine.load(folder, threads=1).generate([1])
    assert (folder / "decode.plan.kernels").read_bytes() == b"compiled"
    assert (folder / "image_decoder.plan.kernels").read_bytes() == b"compiled"
    assert [*folder.glob("*.kernels.*")] == []
    assert taken(folder) == b"compiled"
    library.blob = b"of another driver"
    assert taken(folder) == b""
    Engine.load(folder, threads=1).generate([1])
    assert taken(folder) == b"of another driver"


def test_what_is_kept_already_is_not_written_again(kept) -> None:
    folder, _ = kept
    Engine.load(folder, threads=1).generate([1])
    path = folder / "decode.plan.kernels"
    os.utime(path, ns=(1, 1))
    Engine.load(folder, threads=1).generate([1])
    assert path.stat().st_mtime_ns == 1


def test_a_folder_that_cannot_be_written_draws_all_the_same(kept) -> None:
    folder, _ = kept
    (folder / "decode.plan.kernels").mkdir()  # neither read nor replaced
    assert Engine.load(folder, threads=1).generate([1]).shape == (1, 4, 4, 1)
    assert [*folder.glob("*.kernels.*")] == []


def test_the_classic_tensorrt_keeps_none(exported, on_stand_in) -> None:
    folder, _ = on_stand_in(exported("grouped", "tensorrt"), "tensorrt")
    Engine.load(folder, threads=1).generate([1])
    assert [*folder.glob("*.kernels")] == []


# What the stand-in holds calls against


def test_signatures_are_read_as_pybind11_writes_them() -> None:
    text = """set_shape(*args, **kwargs)
1. set_shape(self: a.b.Kind, name: str, shape: tuple) -> bool
2. set_shape(self: a.b.Kind, name: str, shape: a.b.Dims, more: typing.SupportsInt = 3) -> list[a.b.Dims]
"""
    first, second = signatures("set_shape", text)
    assert first == ["str", "tuple"]
    assert second == ["str", "a.b.Dims", "typing.SupportsInt = 3"]
    assert takes(first, ("x", (1,)))
    assert not takes(first, ("x", [1]))
    assert not takes(first, ("x",))
    assert takes(second, ("x", Checked("Dims", None)))
    assert takes(second, ("x", Checked("Dims", None), 4))


@pytest.mark.skipif(BINDINGS is None, reason="needs the bindings of TensorRT for RTX")
def test_a_call_that_the_bindings_do_not_have_fails() -> None:
    context = Checked("IExecutionContext", SimpleNamespace(execute_async_v4=len, execute_async_v3=len, name=""))
    with pytest.raises(AssertionError, match="IExecutionContext has no execute_async_v4"):
        context.execute_async_v4(0)
    with pytest.raises(AssertionError, match=r"execute_async_v3\(\('stream',\)\)|execute_async_v3\('stream',\)"):
        context.execute_async_v3("stream")
    with pytest.raises(AssertionError, match="cuda_graph_strategy is set to 1; it takes"):
        Checked("IRuntimeConfig", SimpleNamespace()).cuda_graph_strategy = 1


@pytest.mark.skipif(BINDINGS is None, reason="needs the bindings of TensorRT for RTX")
def test_memory_of_the_real_library_becomes_bytes() -> None:
    log = type("Log", (BINDINGS.ILogger,), {"log": lambda self, severity, text: None})()
    builder = BINDINGS.Builder(log)
    network = builder.create_network(0)
    given = network.add_input("x", BINDINGS.DataType.FLOAT, (2,))
    network.mark_output(network.add_activation(given, BINDINGS.ActivationType.RELU).get_output(0))
    assert bytes(builder.build_serialized_network(network, builder.create_builder_config()))[4:8] != b""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_graph_runs_again_on_a_gpu() -> None:
    gpu = Gpu(torch)
    stream, numbers = gpu.stream(), torch.zeros(3, device="cuda")
    with gpu.on(stream):
        again = gpu.captured(stream, lambda: numbers.add_(1))
        again()
        again()
    stream.synchronize()
    assert numbers.tolist() == [2, 2, 2]
    assert isinstance(Call, type)

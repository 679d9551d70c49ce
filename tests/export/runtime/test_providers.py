"""Engines on devices of ONNX Runtime: the same tokens, everything on the device, and one line where that fails.

Tests marked `gpu` run on every device that ONNX Runtime finds; `tests/software_gpu.sh` makes one of software.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import hoist
from export.rewrites.sampling_graph import with_sampling
from export.runtime import providers
from export.runtime.binding import Bound
from export.runtime.devices import DOORS, NAMES, Device, device_of, parsed_options
from export.runtime.engine import Engine
from export.runtime.errors import EngineError
from export.runtime.graph_drawers import GraphDrawer
from export.runtime.loops import Loop
from export.runtime.providers import DeviceWarning, FallbackError
from export.runtime.sampling import Sampler
from export.targets import fuse

ROOT = Path(__file__).parents[3]
SOFTWARE = ROOT / "tests" / "software_gpu.sh"
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/lib/chromium"))
LABELS = np.array([3, 0, 9])
GUIDED = Sampler(cfg_scale=1.5, temperature=0.9)


def found() -> list[str]:
    """The devices of this machine that ONNX Runtime reaches."""
    here = []
    for name, door in DOORS.items():
        try:
            if door.plugin:
                providers.found_device(Device(name), door)
            else:
                providers.check_built_in(Device(name), door)
            here.append(name)
        except EngineError:
            pass
    return here


HERE = found()


@pytest.fixture(params=NAMES[1:])
def device(request: pytest.FixtureRequest) -> str:
    """A device that is here."""
    if request.param not in HERE:
        pytest.skip(f"ONNX Runtime finds no device {request.param} here")
    return str(request.param)


@dataclass
class Node:
    """An operator as ONNX Runtime says where it runs."""

    op_type: str
    name: str = ""
    domain: str = ""


@dataclass
class Part:
    """Operators of one provider."""

    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        """All of them."""
        return self.nodes


@dataclass
class Placed:
    """A session whose operators are placed like this."""

    parts: list[Part]

    def get_provider_graph_assignment_info(self) -> list[Part]:
        """The parts."""
        return self.parts


def check(device: str, *on_cpu: Node, there: tuple[Node, ...] = ()) -> None:
    """Check where operators are placed."""
    door = DOORS[device]
    placed = Placed([Part(door.provider, list(there)), Part(providers.CPU, list(on_cpu))])
    providers.check_placed(Device(device), door, Path("e/decode.onnx"), placed)  # type: ignore[arg-type]


def test_shapes_may_be_computed_on_the_cpu_and_nothing_else() -> None:
    check("cuda", Node("Shape"), Node("Sub"), Node("Concat"))
    with pytest.raises(FallbackError) as caught:
        check("directml", Node("Shape"), Node("Attention", "/a"), Node("Attention", "/b"), Node("Round", "/c"))
    assert str(caught.value) == (
        "e/decode.onnx: the device directml would leave 3 of its 4 operators to the CPU: 2 Attention (/a, ...), "
        "1 Round (/c); run it on another device"
    )


def test_an_operator_of_another_domain_is_none_of_shapes_whatever_its_name() -> None:
    with pytest.raises(FallbackError, match="1 Gather "):
        check("cuda", Node("Gather", "/g", "com.microsoft"))


def test_attention_of_32_bits_on_cuda_is_refused_with_its_cure() -> None:
    with pytest.raises(FallbackError, match="CUDA has GroupQueryAttention in 16 bits only: export with"):
        check("cuda", Node("GroupQueryAttention", "/blocks.0", "com.microsoft"))


def test_sampling_that_is_left_to_the_cpu_is_refused_with_its_cure() -> None:
    with pytest.raises(FallbackError, match=r"engine: {sampling: false}"):
        check("cuda", Node("ArgMax", "/sampling/drawn"))


def test_many_kinds_of_operators_are_counted_not_listed() -> None:
    kinds = [Node(kind) for kind in ("Round", "Det", "Attention", "TopK", "Einsum")]
    with pytest.raises(FallbackError, match="1 Round, 1 Det, 1 Attention and 2 kinds more; run"):
        check("directml", *kinds)


def test_static_int8_that_is_not_fused_is_said() -> None:
    pairs = (Node("QuantizeLinear"), Node("DequantizeLinear"))
    with pytest.warns(DeviceWarning, match="cuda runs its 2 QuantizeLinear and DequantizeLinear one by one"):
        check("cuda", there=pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check("tensorrt-rtx", there=pairs)


def test_what_onnx_runtime_says_of_its_own_placement_is_read(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], name="the_det")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(providers.ASSIGNED, "1")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options, providers=[providers.CPU])
    with pytest.raises(FallbackError, match=r"1 of its 1 operators to the CPU: 1 Det \(the_det\)"):
        providers.check_placed(Device("cuda"), DOORS["cuda"], tmp_path / "m.onnx", session)


@pytest.mark.parametrize("name", ["cuda", "directml"])
def test_a_provider_that_onnx_runtime_is_built_without_names_the_package(name: str) -> None:
    with (
        mock.patch("onnxruntime.get_available_providers", return_value=[providers.CPU]),
        pytest.raises(EngineError, match=f"has no {DOORS[name].provider}; put {DOORS[name].distribution} in its place"),
    ):
        providers.open_session(Device(name), Path("m.onnx"), onnxruntime.SessionOptions())


def test_a_provider_that_does_not_load_is_no_reason_to_use_the_cpu_silently(tmp_path: Path) -> None:
    session = mock.Mock(get_providers=lambda: [providers.CPU])
    with (
        mock.patch("onnxruntime.get_available_providers", return_value=["DmlExecutionProvider", providers.CPU]),
        mock.patch("onnxruntime.InferenceSession", return_value=session),
        pytest.raises(EngineError, match="could not load its DmlExecutionProvider and would use the CPU"),
    ):
        providers.open_session(Device("directml"), tmp_path / "m.onnx", onnxruntime.SessionOptions())


def test_a_plugin_that_is_missing_broken_or_without_a_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    door = DOORS["tensorrt-rtx"]
    providers.register.cache_clear()
    monkeypatch.setitem(sys.modules, door.plugin, None)
    with pytest.raises(EngineError, match=f"{door.distribution} is not installed; pip install {door.distribution}"):
        providers.found_device(Device("tensorrt-rtx"), door)
    monkeypatch.setitem(sys.modules, door.plugin, mock.Mock(get_library_path=lambda: "/nothing/lib.so"))
    with pytest.raises(EngineError, match=r"cannot be loaded .*it needs the driver of the device"):
        providers.found_device(Device("tensorrt-rtx"), door)
    with (
        mock.patch("onnxruntime.register_execution_provider_library"),
        pytest.raises(EngineError, match=f"{door.distribution} finds no such device here"),
    ):
        providers.found_device(Device("tensorrt-rtx"), door)
    providers.register.cache_clear()


def test_devices_and_options_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="device 'gpu': must be one of cpu, cuda, tensorrt-rtx, directml, webgpu"):
        Device("gpu")
    with pytest.raises(ValueError, match="provider options x: the device cpu has none"):
        device_of(None, {}, {"x": "1"})
    with pytest.raises(ValueError, match="device_id '-1': must be a whole number"):
        Device("cuda", {"device_id": "-1"})
    with pytest.raises(ValueError, match="'a' is not NAME=VALUE"):
        parsed_options(["a"])


def test_options_of_now_stand_before_those_of_the_manifest_and_other_devices_do_not_count() -> None:
    recorded = {"cuda": {"use_tf32": "0", "enable_cuda_graph": "1"}, "webgpu": {"enableGraphCapture": "1"}}
    device = device_of("cuda", recorded, {"use_tf32": "1"})
    assert device.options == {"use_tf32": "1", "enable_cuda_graph": "1"}
    assert device.captures
    assert not device.without_capture().captures
    assert device_of("directml", recorded).options == {}


def test_a_cache_that_grows_cannot_be_captured(exported: Callable, tmp_path: Path) -> None:
    model = exported("grouped")
    model.save(tmp_path)
    with pytest.raises(EngineError, match="no step of it can be captured as a graph, because its cache is 'growing'"):
        Engine.load(tmp_path, device="cuda", provider_options={"enable_cuda_graph": "1"})


def test_the_cpu_can_be_asked_for_by_name(exported: Callable, tmp_path: Path) -> None:
    exported("grouped").save(tmp_path)
    engine = Engine.load(tmp_path, threads=1, device="cpu")
    assert engine.runtime == "onnxruntime"
    assert (engine.draw_tokens(LABELS) == Engine.load(tmp_path, threads=1).draw_tokens(LABELS)).all()


def test_recorded_options_are_used_and_those_of_unknown_devices_refused(exported: Callable, tmp_path: Path) -> None:
    model = exported("grouped")
    options = {"cuda": {"enable_cuda_graph": "1"}}
    replace(model, manifest=replace(model.manifest, provider_options=options)).save(tmp_path)
    with pytest.raises(EngineError, match="can be captured"):
        Engine.load(tmp_path, device="cuda")
    replace(model, manifest=replace(model.manifest, provider_options={"tpu": {}})).save(tmp_path)
    with pytest.raises(EngineError, match="provider_options: 'tpu' is not one of"):
        Engine.load(tmp_path)


def captured(model: OnnxModel) -> OnnxModel:
    """A model that samples without branches."""
    return with_sampling(model, branches=False)


def forms(exported: Callable) -> Iterator[tuple[str, OnnxModel]]:
    """Engines of the kinds that every device runs without the CPU."""
    yield "shared", fuse(exported("grouped")).model
    yield "shared, sampling", captured(fuse(exported("grouped")).model)
    yield "hoisted", hoist(fuse(exported("modulated")).model).model


@pytest.mark.gpu
@pytest.mark.slow
def test_a_device_draws_the_tokens_of_the_cpu_with_every_number_where_it_is_read(
    exported: Callable, engine_of: Callable, device: str
) -> None:
    for name, model in forms(exported):
        here = engine_of(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeviceWarning)  # image decoders of a palette
            there = Engine.load(here.folder, threads=1, device=device)
        assert there.runtime == f"onnxruntime {device}"
        for sampler in (GUIDED, Sampler(), GUIDED):
            wanted = here.draw_tokens(LABELS, 5, sampler)
            assert (there.draw_tokens(LABELS, 5, sampler) == wanted).mean() > 0.95, name
        (loop,) = (each for rows, each in there.lending.idle if rows == 2 * len(LABELS))
        assert isinstance(loop, Loop)
        assert {f"past.{each}" for each in loop.ports} <= loop.bound.there
        assert "logits" in loop.bound.there
        inputs = np.concatenate([17 + LABELS[:, None], here.draw_tokens(LABELS, 1)[:, :-1]], axis=1)
        np.testing.assert_allclose(there.score_stepwise(inputs), here.score_stepwise(inputs), rtol=0, atol=2e-3)
        np.testing.assert_allclose(there.score(inputs), here.score(inputs), rtol=0, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.slow
def test_a_captured_step_draws_the_same_in_every_drawing(exported: Callable, engine_of: Callable, device: str) -> None:
    if not (graph := DOORS[device].graph):
        pytest.skip(f"the provider of {device} captures by itself, or not at all")
    here = engine_of(captured(fuse(exported("grouped")).model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeviceWarning)
        there = Engine.load(here.folder, threads=1, device=device, provider_options={graph: "1"})
    for seed, sampler in ((1, GUIDED), (2, GUIDED), (1, Sampler())):
        wanted = here.draw_tokens(LABELS, seed, sampler)
        assert (there.draw_tokens(LABELS, seed, sampler) == wanted).mean() > 0.95
        (loop,) = (each for rows, each in there.lending.idle if rows == (2 if sampler.guided else 1) * len(LABELS))
        assert isinstance(loop, Loop)
        assert len(loop.bound.graphs) == 1  # for all steps
    inputs = np.concatenate([17 + LABELS[:, None], here.draw_tokens(LABELS, 1)[:, :-1]], axis=1)
    np.testing.assert_allclose(there.score_stepwise(inputs), here.score_stepwise(inputs), rtol=0, atol=2e-3)


@pytest.mark.gpu
def test_a_graph_that_the_device_lacks_operators_of_is_refused_by_their_names(
    exported: Callable, engine_of: Callable, device: str
) -> None:
    if device != "webgpu":
        pytest.skip("which operators are missing is known of WebGPU alone")
    here = engine_of(exported("grouped"))
    with pytest.raises(EngineError, match=r"would leave .* Attention \(/blocks/0/.*fuse: {}"):
        Engine.load(here.folder, threads=1, device=device)


@pytest.mark.slow
def test_engines_run_on_a_gpu_of_software() -> None:
    """The tests above, where a GPU can be had as software."""
    pytest.importorskip("onnxruntime_ep_webgpu", reason="onnxruntime-ep-webgpu is not installed")
    if sys.platform != "linux" or shutil.which("unshare") is None or not (CHROMIUM / "libvk_swiftshader.so").exists():
        pytest.skip("a GPU of software needs Linux, unshare and Chromium's libvk_swiftshader.so")
    command = [str(SOFTWARE), sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:xdist", __file__]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no namespace can be made here ({done.stderr.splitlines()[-1]})")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "[webgpu]" not in done.stdout or "passed" in done.stdout


def test_a_graph_of_the_drawing_is_forgotten_when_its_buffers_change(exported: Callable, engine_of: Callable) -> None:
    engine = engine_of(captured(fuse(exported("grouped")).model))
    bound = Bound(engine.graphs.sessions.decode, Device())
    bound.feed("tokens", np.zeros((2, 1), dtype=np.int64))
    first = bound.graph()
    assert bound.graph() == first
    bound.feed("tokens", np.ones((2, 1), dtype=np.int64))
    assert bound.graph() != first  # what the host feeds would stay what it was when the graph was captured
    bound.feed("tokens", np.zeros((3, 1), dtype=np.int64))
    assert not bound.graphs


def test_logits_stay_on_the_device_where_the_graph_chooses(exported: Callable, engine_of: Callable) -> None:
    engine = engine_of(captured(fuse(exported("grouped")).model))
    with engine._lent(6) as loop:
        assert isinstance(loop, Loop)
        drawer = engine._drawer(loop, engine.sampler)
        assert isinstance(drawer, GraphDrawer)
        assert loop.said == "total"
    with engine._lent(6) as loop:
        assert isinstance(loop, Loop)
        assert loop.said == "logits"


@pytest.mark.parametrize("kind", ["grouped", "masked"])
def test_sampling_without_branches_has_no_if_and_draws_the_same(exported: Callable, engine_of: Callable, kind) -> None:
    model = exported(kind)
    model = replace(model, manifest=replace(model.manifest, sampler=Sampler(cfg_scale=1.5, top_k=5, steps=4)))
    plain = captured(model)
    kinds = {node.op_type for node in plain.decode.graph.all_nodes()}
    assert not kinds & {"If", "Neg"}
    drawn = engine_of(plain).draw_tokens(LABELS, 3)
    assert (drawn == engine_of(with_sampling(model)).draw_tokens(LABELS, 3)).all()
    assert (drawn == engine_of(model).draw_tokens(LABELS, 3)).all()

"""A model repository for Triton: configs that its protobuf reads, and a model that draws what the engine draws."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from google.protobuf import json_format, text_format
from numpy.typing import NDArray

from compress.cli import main
from export.rewrites.hoist import hoist
from export.runtime.engine import Engine
from export.targets import fuse
from export.targets.triton_layout import Serving, TritonError, text, write

NUMPY = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_INT32": np.int32, "TYPE_UINT64": np.uint64}
LABELS = np.array([[3], [0], [9]])


@pytest.fixture(scope="module")
def published() -> Any:
    """Triton's own description of config.pbtxt, without the client around it, which needs gRPC."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.origin is None:
        pytest.skip("tritonclient is not installed; pip install --no-deps tritonclient")
    path = Path(found.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Tensor:
    """`triton_python_backend_utils.Tensor`."""

    title: str
    array: NDArray[Any]

    def name(self) -> str:
        """Its name."""
        return self.title

    def as_numpy(self) -> NDArray[Any]:
        """Its numbers."""
        return self.array


@dataclass
class Request:
    """`triton_python_backend_utils.InferenceRequest`."""

    tensors: list[Tensor]

    def inputs(self) -> list[Tensor]:
        """All of them."""
        return self.tensors


@dataclass
class Failure:
    """`triton_python_backend_utils.TritonError`."""

    text: str

    def message(self) -> str:
        """What is wrong."""
        return self.text


@dataclass
class Response:
    """`triton_python_backend_utils.InferenceResponse`."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: Failure | None = None

    @property
    def images(self) -> NDArray[np.uint8]:
        """Its one output."""
        assert self.error is None, self.error
        (made,) = self.output_tensors
        assert made.name() == "images"
        return made.as_numpy()


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    """As Triton's: None where an optional input was not sent."""
    return next((each for each in request.inputs() if each.name() == name), None)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Opens a written model as Triton's Python backend does: from its folder, with what it writes beside it."""
    fake = types.ModuleType("triton_python_backend_utils")
    offered = {"Tensor": Tensor, "InferenceResponse": Response, "TritonError": Failure}
    vars(fake).update(offered, get_input_tensor_by_name=get_input_tensor_by_name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "image_token_engine"]:
            del sys.modules[name]

    def open_model(model: Path, published: Any) -> Any:
        forget()
        config = text_format.Parse((model / "config.pbtxt").read_text(), published.ModelConfig())
        spec = importlib.util.spec_from_file_location("model", model / "1" / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        served = module.TritonPythonModel()
        served.initialize(
            {
                "model_config": json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)),
                "model_instance_kind": "CPU",
                "model_instance_device_id": "0",
                "model_repository": str(model),
                "model_version": "1",
                "model_name": model.name,
            }
        )
        assert Path(sys.modules["image_token_engine"].__path__[0]).is_relative_to(model)
        return served

    yield open_model
    forget()


def asked(labels: Any, seed: int | None = None, **settings: float) -> Request:
    """A request for classes (n, 1)."""
    count = len(labels)
    tensors = [Tensor("labels", np.asarray(labels, dtype=np.int64).reshape(count, 1))]
    if seed is not None:
        tensors.append(Tensor("seed", np.full((count, 1), seed, dtype=np.uint64)))
    kinds = {"top_k": np.int32, "steps": np.int32}
    tensors += [
        Tensor(name, np.full((count, 1), value, dtype=kinds.get(name, np.float32))) for name, value in settings.items()
    ]
    return Request(tensors)


@pytest.fixture(scope="module")
def kinds(exported: Callable, engine_of: Callable) -> Callable[[str], Engine]:
    """Engines of every order."""
    made: dict[str, Engine] = {}

    def make(kind: str) -> Engine:
        if kind not in made:
            model = exported("rotary" if kind == "shared" else kind)
            made[kind] = engine_of(fuse(model).model if kind == "shared" else model)
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["shared", "masked", "next-scale"])
def test_requests_that_are_drawn_together_get_the_pictures_of_the_engine_alone(
    kinds, serve, published, tmp_path, kind
) -> None:
    engine = kinds(kind)
    write(engine, tmp_path, Serving("art"))
    served = serve(tmp_path / "art", published)
    requests = [asked([3, 0, 9], 5), asked([1], 7), asked([3], 5, cfg_scale=2.0, temperature=0.5), asked([4, 4])]
    found = [each.images for each in served.execute(requests)]
    expected = [
        engine.generate([3, 0, 9], 5),
        engine.generate([1], 7),
        engine.generate([3], 5, cfg_scale=2.0, temperature=0.5),
        engine.generate([4, 4], 0),
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.uint8
        assert one.tobytes() == other.tobytes()
    for request, wanted in zip(requests, expected, strict=True):  # and one by one
        assert served.execute([request])[0].images.tobytes() == wanted.tobytes()


def test_what_cannot_be_drawn_is_an_error_of_its_own_request(kinds, serve, published, tmp_path) -> None:
    engine = kinds("shared")
    write(engine, tmp_path, Serving("art"))
    served = serve(tmp_path / "art", published)
    mixed = asked([1, 2], top_p=0.5)
    mixed.tensors[-1].array[0] = 0.25
    responses = served.execute([asked([99]), asked([1], 2), asked([1], temperature=-1), mixed, asked([1], steps=3)])
    said = [None if each.error is None else each.error.message() for each in responses]
    said[-1] = said[-1].partition(" cfg_scale")[0]  # which settings it takes is told by tests of that line
    assert said == [
        "label 99 is not a class; the model draws 0 to 9 (10 is unconditional)",
        None,
        "temperature -1.0: must be at least 0",
        "top_p [0.25, 0.5]: one setting for all pictures of a request; send others in another request",
        "steps 3: this model draws token by token; leave it out (it takes",
    ]
    assert (responses[1].images == engine.generate([1], 2)).all()


def test_an_engine_that_rounds_by_the_whole_call_draws_each_request_by_itself(
    kinds, serve, published, exported, engine_of, tmp_path
) -> None:
    model = exported("rotary")
    engine = engine_of(replace(model, manifest=replace(model.manifest, call_scaled=True)))
    write(engine, tmp_path, Serving("art"))
    config = text_format.Parse((tmp_path / "art" / "config.pbtxt").read_text(), published.ModelConfig())
    assert not config.HasField("dynamic_batching")
    served = serve(tmp_path / "art", published)
    rows: list[int] = []
    draw = type(served.engine).draw_tokens
    served.engine.draw_tokens = lambda labels, **more: rows.append(len(labels)) or draw(served.engine, labels, **more)
    served.execute([asked([3, 0, 9], 5), asked([1], 7)])
    assert rows == [3, 1]


def test_a_model_of_texts_takes_features_instead_of_classes(kinds, serve, published, tmp_path) -> None:
    engine = kinds("text")
    write(engine, tmp_path, Serving("art"))
    config = text_format.Parse((tmp_path / "art" / "config.pbtxt").read_text(), published.ModelConfig())
    assert next((each.name, [*each.dims]) for each in config.input) == ("features", [5, 6])
    assert "labels" not in {each.name for each in config.input}
    features = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    found = serve(tmp_path / "art", published).execute([Request([Tensor("features", features)])])[0].images
    assert (found == engine.generate([0, 0], features=features)).all()


@pytest.mark.parametrize("kind", ["shared", "rotary", "masked", "next-scale", "text", "hoisted"])
def test_every_config_is_one_of_tritons_and_says_what_the_graph_takes_and_gives(
    kinds, published, exported, engine_of, tmp_path, kind
) -> None:
    engine = engine_of(hoist(exported("modulated")).model) if kind == "hoisted" else kinds(kind)
    names = write(engine, tmp_path, Serving("art", most=4))
    assert {each.name for each in tmp_path.iterdir()} == set(names)
    for name in names:
        config = text_format.Parse((tmp_path / name / "config.pbtxt").read_text(), published.ModelConfig())
        assert config.name == name
        assert [each.kind for each in config.instance_group] == [published.ModelInstanceGroup.KIND_CPU]
        if name == "art":
            assert (config.backend, config.max_batch_size) == ("python", 4)
            continue
        role = name.removeprefix("art_")
        assert config.backend == "onnxruntime"
        session = onnxruntime.InferenceSession(
            str(tmp_path / name / "1" / config.default_model_filename), providers=["CPUExecutionProvider"]
        )
        batched = role in ("image_decoder", "image_encoder")
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (4 * batched, batched)
        for ports, said in ((session.get_inputs(), config.input), (session.get_outputs(), config.output)):
            assert [each.name for each in said] == [each.name for each in ports]
            for one, port in zip(said, ports, strict=True):
                sizes = [each if isinstance(each, int) else -1 for each in port.shape][batched:]
                assert [*one.dims] == (sizes or [1])
                assert one.HasField("reshape") == (not sizes)


def test_the_decoder_that_is_served_makes_the_pictures_of_the_engine(kinds, published, tmp_path) -> None:
    engine = kinds("shared")
    write(engine, tmp_path, Serving("art"))
    tokens = engine.draw_tokens(LABELS.ravel())
    session = onnxruntime.InferenceSession(str(tmp_path / "art_image_decoder" / "1" / "image_decoder.onnx"))
    assert (session.run(["images"], {"tokens": tokens})[0] == engine.decode_images(tokens)).all()


def test_gpus_are_named_in_the_configs(kinds, published, tmp_path) -> None:
    for name in write(kinds("shared"), tmp_path, Serving("art", device="cuda")):
        config = text_format.Parse((tmp_path / name / "config.pbtxt").read_text(), published.ModelConfig())
        assert [each.kind for each in config.instance_group] == [published.ModelInstanceGroup.KIND_GPU]
        assert name != "art" or config.parameters["device"].string_value == "cuda"


def with_plan(engine: Engine, folder: Path, plan: bytes) -> Engine:
    """An engine with a plan beside its graphs."""
    for each in engine.folder.iterdir():
        (folder / each.name).write_bytes(each.read_bytes())
    (folder / "decode.plan").write_bytes(plan)
    files = {**engine.manifest.files, "plan": "decode.plan"}
    replace(engine.manifest, files=files).save(folder)
    return Engine.load(folder, threads=1, device="cpu")


def test_a_plan_is_served_by_tensorrt_on_a_gpu_and_one_of_tensorrt_for_rtx_is_refused(
    exported, engine_of, published, tmp_path
) -> None:
    engine = engine_of(exported("grouped", "tensorrt"))
    with pytest.raises(TritonError, match="--backend tensorrt needs a plan; build one with  build-engine"):
        write(engine, tmp_path / "none", Serving("art", "tensorrt"))
    (tmp_path / "classic").mkdir()
    planned = with_plan(engine, tmp_path / "classic", b"ftrt, and what a builder makes")
    write(planned, tmp_path / "repository", Serving("art", "tensorrt"))
    model = tmp_path / "repository" / "art_decode"
    config = text_format.Parse((model / "config.pbtxt").read_text(), published.ModelConfig())
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "decode.plan")
    assert [each.kind for each in config.instance_group] == [published.ModelInstanceGroup.KIND_GPU]
    assert {each.name for each in (model / "1").iterdir()} == {"decode.plan"}
    (tmp_path / "rtx").mkdir()
    with pytest.raises(TritonError, match="was built by TensorRT for RTX, whose plans Triton's"):
        write(with_plan(engine, tmp_path / "rtx", b"vtrt..."), tmp_path / "other", Serving("art", "tensorrt"))


def test_a_model_that_is_there_is_left_alone_and_nothing_else_is_written(kinds, tmp_path) -> None:
    (tmp_path / "art_decode").mkdir()
    with pytest.raises(TritonError, match="art_decode: exists; remove it, or choose another --name"):
        write(kinds("shared"), tmp_path, Serving("art"))
    assert [each.name for each in tmp_path.iterdir()] == ["art_decode"]


def test_names_and_targets_that_triton_cannot_serve_are_refused(kinds, tmp_path) -> None:
    with pytest.raises(TritonError, match=r"--name: '../x' is no name of a model"):
        write(kinds("shared"), tmp_path, Serving("../x"))
    engine = kinds("shared")
    manifest = engine.manifest
    engine.manifest = replace(manifest, target="elsewhere")
    try:
        with pytest.raises(TritonError, match="is for the target 'elsewhere' of another package"):
            write(engine, tmp_path, Serving("art"))
    finally:
        engine.manifest = manifest


def test_texts_are_escaped_as_protobuf_reads_them(published) -> None:
    config = text_format.Parse(text({"name": 'a "quoted" \\ name', "max_batch_size": 2}), published.ModelConfig())
    assert config.name == 'a "quoted" \\ name'


def test_the_command_writes_and_says_what_to_read(kinds, tmp_path) -> None:
    folder = str(kinds("shared").folder)
    ran = CliRunner().invoke(main, ["export-triton", folder, "-o", str(tmp_path / "models"), "--name", "art"])
    assert ran.exit_code == 0, ran.output
    assert "art, art_decode, art_image_decoder" in ran.output
    ran = CliRunner().invoke(main, ["export-triton", folder, "-o", str(tmp_path / "models"), "--name", "art"])
    assert ran.exit_code == 2
    assert "exists; remove it" in ran.output

"""An engine as a model repository of Triton: one model that draws, and its graphs as models of their own.

Letters: T tokens of a picture, P x C features of a text, H x W x C pixels.

The model that draws runs in Triton's Python backend: `triton_model` with the engine and its runtime beside it. A decode
graph keeps its cache in inputs and outputs, so Triton must not put requests of it into one batch; pictures of the
image decoder do not depend on each other, so there it may. The messages of `config.pbtxt` are those of Triton's
`model_config.proto`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from export.runtime.deployment import OWN
from export.runtime.engine import Engine
from export.runtime.engine_files import PLAIN_NAME, WEIGHTS
from export.runtime.manifest import FILE

Backend: TypeAlias = Literal["onnxruntime", "tensorrt"]
Config: TypeAlias = dict[str, Any]

RUNTIME = Path(__file__).parents[1] / "runtime"  # packed as `image_token_engine`
PACKAGE, MODEL, ENGINE, CONFIG, VERSION = "image_token_engine", "model.py", "engine", "config.pbtxt", "1"
GRAPHS = ("decode", "begin", "scales", "image_decoder", "image_encoder")  # that are models of their own, where there
ROW_WISE = ("image_decoder", "image_encoder")  # one row of their inputs and outputs is one picture
RTX = b"vtrt"  # the first bytes of a plan of TensorRT for RTX
QUEUED_US = 5000  # that a request waits for others to be drawn with
KINDS = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(int8)": "INT8",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
}
SETTINGS = {"cfg_scale": "FP32", "temperature": "FP32", "top_k": "INT32", "top_p": "FP32"}
OF_MASKED = {"steps": "INT32"}


class TritonError(ValueError):
    """An engine that Triton cannot serve as asked; the message says why."""


class Word(str):
    """A value of an enumeration, which stands without quotes."""


@dataclass(frozen=True)
class Serving:
    """How Triton is to serve an engine: under which name, the graphs by which backend, and on what.

    `most` pictures are drawn at once; `threads` of the CPU are for the model that draws.
    """

    name: str
    backend: Backend = "onnxruntime"
    device: Literal["cpu", "cuda"] = "cpu"
    most: int = 16
    threads: int = 2

    @property
    def instances(self) -> list[Config]:
        """One instance, on the CPU or on each GPU."""
        return [{"count": 1, "kind": Word("KIND_CPU" if self.device == "cpu" else "KIND_GPU")}]


def write(engine: Engine, repository: Path, serving: Serving) -> list[str]:
    """Write the models of an engine into a model repository, which may hold others; their names.

    Raises:
        TritonError: the engine cannot be served so, or the repository has a model of such a name.
    """
    check(engine, serving)
    models: dict[str, Any] = {serving.name: None}
    models |= {f"{serving.name}_{role}": role for role in GRAPHS if role in engine.manifest.files}
    for name in models:
        if (repository / name).exists():
            raise TritonError(f"{repository / name}: exists; remove it, or choose another --name")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compress-", dir=repository) as room:
        for name, role in models.items():
            version = Path(room) / name / VERSION
            version.mkdir(parents=True)
            config = drawing(engine, serving, version) if role is None else graph(engine, serving, role, version)
            (version.parent / CONFIG).write_text(text({"name": name, **config}), encoding="utf-8")
        for name in models:
            (Path(room) / name).rename(repository / name)
    return [*models]


def check(engine: Engine, serving: Serving) -> None:
    """Refuse what Triton cannot serve.

    Raises:
        TritonError: says why.
    """
    target = engine.manifest.target
    if not PLAIN_NAME.fullmatch(serving.name):
        raise TritonError(f"--name: {serving.name!r} is no name of a model; use letters, digits and ._-")
    if target not in OWN:
        raise TritonError(
            f"{engine.folder}: is for the target {target!r} of another package, which Triton has no backend for; "
            f"export it for {', '.join(OWN)}"
        )
    if serving.backend == "tensorrt":
        name = engine.manifest.files.get("plan")
        if name is None:
            raise TritonError(
                f"{engine.folder}: --backend tensorrt needs a plan; build one with  build-engine: {{}}, or leave the "
                f"option out"
            )
        with (engine.folder / name).open("rb") as file:
            if file.read(len(RTX)) == RTX:
                raise TritonError(
                    f"{engine.folder / name}: was built by TensorRT for RTX, whose plans Triton's TensorRT backend "
                    f"cannot load; leave --backend out, or build with TensorRT"
                )


def drawing(engine: Engine, serving: Serving, version: Path) -> Config:
    """The model that draws, with all that it needs."""
    (version / ENGINE).mkdir()
    for name in (FILE, *dict.fromkeys(engine.manifest.files.values())):
        shutil.copyfile(engine.folder / name, version / ENGINE / name)
    unwanted = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "pyproject.toml", "*.md")
    shutil.copytree(RUNTIME, version / PACKAGE, ignore=unwanted)
    shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / MODEL)
    shape = engine.shape
    inputs = [tensor("labels", "INT64", [1])]
    if shape.text is not None:
        inputs = [tensor("features", "FP32", [shape.text.length, shape.text.width])]
    optional = {"seed": "UINT64", **SETTINGS, **(OF_MASKED if shape.drawing.masks else {})}
    inputs += [tensor(name, kind, [1]) | {"optional": True} for name, kind in optional.items()]
    values = {"device": serving.device, "threads": str(serving.threads)}
    return {
        "backend": "python",
        "max_batch_size": serving.most,
        "input": inputs,
        "output": [tensor("images", "UINT8", engine.picture)],
        # What else is in a call would change the pictures of an engine that rounds by all of it.
        **({} if engine.manifest.call_scaled else {"dynamic_batching": {"max_queue_delay_microseconds": QUEUED_US}}),
        "instance_group": serving.instances,
        "parameters": [{"key": name, "value": {"string_value": value}} for name, value in values.items()],
    }


def graph(engine: Engine, serving: Serving, role: str, version: Path) -> Config:
    """One graph of an engine, or the plan that was built of it."""
    session, files = engine.graphs.session(role), engine.manifest.files
    planned = serving.backend == "tensorrt" and role == "decode"
    for each in ("plan",) if planned else (role, f"{role}{WEIGHTS}"):
        if each in files:
            shutil.copyfile(engine.folder / files[each], version / files[each])
    rows = all(each.shape and isinstance(each.shape[0], str) for each in session.get_inputs())
    batched = role in ROW_WISE and rows
    made: Config = {"platform": "tensorrt_plan"} if planned else {"backend": "onnxruntime"}
    made |= {
        "default_model_filename": files["plan" if planned else role],  # beside it lie its weights, under their name
        "max_batch_size": serving.most if batched else 0,
        "input": [described(each, batched) for each in session.get_inputs()],
        "output": [described(each, batched) for each in session.get_outputs()],
    }
    if batched:
        made["dynamic_batching"] = {"max_queue_delay_microseconds": QUEUED_US}
    return made | {"instance_group": Serving(serving.name, device="cuda").instances if planned else serving.instances}


def described(port: Any, batched: bool) -> Config:
    """An input or output of a graph; Triton adds the size of the batch itself, and knows no numbers without sizes."""
    sizes = [each if isinstance(each, int) else -1 for each in port.shape][batched:]
    made = tensor(port.name, KINDS[port.type], sizes or [1])
    return made if sizes else made | {"reshape": {"shape": []}}


def tensor(name: str, kind: str, sizes: Sequence[int]) -> Config:
    """An input or output."""
    return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": [*sizes]}


def text(message: Mapping[str, Any], depth: int = 0) -> str:
    """A message in protobuf's text format."""
    lines, pad = [], "  " * depth
    for name, value in message.items():
        if isinstance(value, list) and not any(isinstance(each, dict) for each in value):
            lines.append(f"{pad}{name}: [{', '.join(map(literal, value))}]")
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                lines.append(f"{pad}{name} {{\n{text(each, depth + 1)}{pad}}}")
            else:
                lines.append(f"{pad}{name}: {literal(each)}")
    return "".join(f"{line}\n" for line in lines)


def literal(value: bool | int | str) -> str:
    """A number, a word of an enumeration, or a text in quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Word | int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""A static site that draws with an engine in the browser: the page, the engine's graphs, and onnxruntime-web.

The graphs are those of `export.rewrites.resumable`, which choose tokens and make noise themselves: so the page has no
sampler of its own, and knows nothing of orders and caches.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from export.graph.metadata import stamp
from export.graph.onnx_model import OnnxModel
from export.graph.weights import PROTOBUF, save_graph, weight_bytes
from export.rewrites.resumable import resumable
from export.runtime.manifest import FILE, Manifest, file_hash
from export.runtime.orders import OWN
from export.web.ort_web import BINARY, SCRIPT, VERSION

PAGE = Path(__file__).with_name("page")
DESCRIPTION = "engine.json"
GRAPHS, RUNTIME = "graphs", "onnxruntime"
# A server may not know .mjs, and browsers run no script that is not called one.
CALLED = {SCRIPT: "ort.js", BINARY: "ort.wasm"}
TARGETS = ("onnxruntime", "standard")
POSSIBLE = f"a page draws with engines of classes, or of none, exported for {' or '.join(TARGETS)}"

ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QLinearMatMul", "QLinearConv")
TO_INT8 = 4  # the accuracy level of MatMulNBits that rounds its inputs


class SiteError(ValueError):
    """An engine that no page can draw with, or a folder that cannot become a site; the message says why."""


def write(model: OnnxModel, engine: Path, folder: Path, runtime: Mapping[str, bytes]) -> int:
    """Write the site of an engine (its folder, loaded as `model`) and the files of onnxruntime-web; its bytes.

    The folder is new, empty, or holds a site, which is replaced.

    Raises:
        SiteError: says why not.
    """
    check(model, engine)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (GRAPHS, RUNTIME):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    start, advance, steps = resumable(model)
    files = {}
    for name, graph in {"start": start, "advance": advance, "image_decoder": model.image_decoder}.items():
        stamp(graph, name, model.manifest)
        files[name] = described(folder, written(graph, folder / GRAPHS / f"{name}.onnx"))
    for name, content in runtime.items():
        (folder / RUNTIME / CALLED[name]).write_bytes(content)
    files["onnxruntime"] = described(folder, folder / RUNTIME / CALLED[BINARY])
    for path in sorted(PAGE.iterdir()):
        shutil.copyfile(path, folder / RUNTIME / path.name if path.suffix == ".txt" else folder / path.name)
    description = engine_json(model.manifest, engine, steps, files, picture(model))
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check(model: OnnxModel, engine: Path) -> None:
    """Refuse engines that a page cannot draw with.

    Raises:
        SiteError: says why, and which are possible.
    """
    manifest = model.manifest
    halves = {manifest.floats, manifest.cache_format}
    reasons = {
        f"is for the target {manifest.target!r}": manifest.target not in TARGETS,
        "draws texts, whose encoder it does not hold": manifest.shape.text is not None,
        f"draws in the order {manifest.shape.order!r} of another package": manifest.shape.order not in OWN,
        f"takes {manifest.fixed_batch} rows only (fixed_batch)": bool(manifest.fixed_batch),
        "computes in bfloat16, which onnxruntime-web does not": "bfloat16" in halves,
        "has more weights than one file of a graph holds, 2 GB": weight_bytes(model.decode) >= PROTOBUF,
    }
    for reason, holds in reasons.items():
        if holds:
            raise SiteError(f"{engine}: {reason}; {POSSIBLE}")


def rounds(model: OnnxModel) -> bool:
    """Whether what layers read is rounded while drawing, to int8 or half precision.

    What it is rounded to depends on the last bits of sums, which no two processors' kernels share, and one other number
    changes all that follows it.
    """
    return model.manifest.floats != "float32" or any(
        node.op_type in ROUNDING
        or ("accuracy_level" in node.attributes and node.attributes["accuracy_level"].as_int() == TO_INT8)
        for graph in (model.decode, model.image_decoder)
        for node in graph.graph.all_nodes()
    )


def check_folder(folder: Path) -> None:
    """Refuse to mix a site with other files.

    Raises:
        SiteError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise SiteError(f"{folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise SiteError(f"{folder}: holds other files than a site; name another folder")


def written(graph: ir.Model, path: Path) -> Path:
    """A graph with its weights inside: a browser opens no file beside that of a graph within a Loop."""
    save_graph(graph, path, PROTOBUF)
    return path


def described(folder: Path, path: Path) -> dict[str, Any]:
    """A file that the page loads. The address changes with its content, so that no browser shows an older one."""
    sha256, place = file_hash(path), path.relative_to(folder).as_posix()
    return {"url": f"{place}?{sha256[:16]}", "bytes": path.stat().st_size, "sha256": sha256}


def picture(model: OnnxModel) -> list[int]:
    """Height, width and colour channels of a picture."""
    shape = model.image_decoder.graph.outputs[0].shape
    assert shape is not None
    return [each for each in shape.dims[1:] if isinstance(each, int)]


def engine_json(
    manifest: Manifest, engine: Path, steps: int, files: Mapping[str, Any], size: list[int]
) -> dict[str, Any]:
    """What the page knows of the engine."""
    shape = manifest.shape
    return {
        "name": manifest.name,
        "classes": list(shape.class_names) or [str(label) for label in range(shape.classes)],
        "picture": size,
        "steps": steps,
        "order": shape.drawing.words,
        "parameters": manifest.parameters,
        "onnxruntime": VERSION,
        "manifest": hashlib.sha256((engine / FILE).read_bytes()).hexdigest(),
        "files": files,
    }

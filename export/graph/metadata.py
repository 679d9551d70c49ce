"""What an ONNX file says of itself, for tools that see the file alone: its metadata, written from the manifest."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import onnx_ir as ir

from export.runtime.manifest import Manifest

PRODUCER = "compress"
DISTRIBUTION = "image-token-compress"
DRAWING = ("decode", "generate", "start", "advance")  # graphs that know classes, and choose or make what is chosen from

PICTURES = ("image_decoder", "image_encoder")  # the tokenizer's


def stamp(graph: ir.Model, role: str, manifest: Manifest) -> None:
    """Write producer, model and key into a graph, in place; into graphs that draw the sampler and class names too."""
    graph.producer_name, graph.producer_version = PRODUCER, producer_version()
    graph.metadata_props.clear()
    graph.metadata_props.update(properties(role, manifest))


def properties(role: str, manifest: Manifest) -> dict[str, str]:
    """The metadata of a graph by name; what is no text is JSON.

    Image decoder and encoder do not depend on the transformer: engines that share them have files of equal bytes.
    """
    shape = manifest.shape
    found = {"name": manifest.name, "family": manifest.family, "graph": role}
    if role not in PICTURES:
        found |= {"target": manifest.target, "order": shape.order, "classes": str(shape.classes)}
        found["manifest_key"] = manifest.key
    if role in DRAWING:
        found["sampler"] = json.dumps(asdict(manifest.sampler))
        if shape.class_names:
            found["class_names"] = json.dumps(shape.class_names, ensure_ascii=False)
    if manifest.licence:
        found["licence"] = manifest.licence
    return found


def producer_version() -> str:
    """The version of this project, where it is installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return ""

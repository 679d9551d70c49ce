"""Faults planted in copies of a sound engine, each seen by `verify` without a gate, and the sound engine by none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compress.models.families import reference
from compress.passes import find
from compress.verifying.comparison import Comparison, compare
from export.runtime.manifest import Manifest
from export.runtime.sampling import Sampler

SAMPLER = Sampler(cfg_scale=2.0, temperature=0.9, top_k=9)
Edit = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model, tiny_tokens) -> tuple[Path, Path]:
    """A checkpoint that draws with guidance, and its engine that samples inside and has a single file."""
    from compress.passes import Context

    room = tmp_path_factory.mktemp("sound")
    model = tiny_model(sampler=SAMPLER)
    (room / "checkpoint").mkdir()
    reference.save(model, room / "checkpoint")
    made: Any = model
    context = Context(model, tiny_tokens, 8, 0, room)
    for name, settings in (("export", {"target": "onnxruntime"}), ("fuse", {}), ("engine", {"single_file": True})):
        made = find(name, "test")(**settings).run(made, context).model
    (room / "engine").mkdir()
    made.save(room / "engine")
    return room / "checkpoint", room / "engine"


def verified(checkpoint: Path, engine: Path) -> Comparison:
    """What `verify` finds without gates."""
    return compare(str(checkpoint), str(engine), None, "digits", 24, threads=1)


def edited(engine: Path, folder: Path, file: str, edit: Edit) -> Path:
    """A copy of an engine with one graph changed, and the hashes of its manifest with it."""
    shutil.copytree(engine, folder)
    model = onnx.load(folder / file)
    edit(model)
    onnx.save(model, folder / file)
    Manifest.load(engine).save(folder)
    return folder


def readers(graph: onnx.GraphProto, name: str) -> list[tuple[onnx.NodeProto, int]]:
    """Who reads a value, at which place."""
    return [(node, place) for node in graph.node for place, each in enumerate(node.input) if each == name]


def behind(name: str, op: str, *constants: np.ndarray, first: bool = False) -> Edit:
    """Everybody who reads a value reads it behind an operator."""

    def edit(model: onnx.ModelProto) -> None:
        graph, places = model.graph, readers(model.graph, name)
        names = [f"planted.{index}" for index in range(len(constants))]
        graph.initializer.extend(numpy_helper.from_array(*each) for each in zip(constants, names, strict=True))
        for node, place in places:
            node.input[place] = "planted"
        given = [*names, name] if first else [name, *names]
        graph.node.insert(0, helper.make_node(op, given, ["planted"], "planted"))

    return edit


def output_behind(name: str, op: str, *constants: np.ndarray, first: bool = False, **attributes: Any) -> Edit:
    """An output is what it was behind an operator."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            for names in (node.input, node.output):
                for place, each in enumerate(names):
                    if each == name:
                        names[place] = "before"
        names = [f"planted.{index}" for index in range(len(constants))]
        graph.initializer.extend(numpy_helper.from_array(*each) for each in zip(constants, names, strict=True))
        given = [*names, "before"] if first else ["before", *names]
        graph.node.append(helper.make_node(op, given, [name], "planted", **attributes))

    return edit


def number(value: float, kind: str = "float32") -> np.ndarray:
    """A scalar."""
    return np.array(value, dtype=kind)


def never(token: int) -> np.ndarray:
    """A bias that never lets a token be drawn."""
    made = np.zeros((1, 1, 17), dtype=np.float32)
    made[..., token] = -1e9
    return made


def shifted(name: str) -> Edit:
    """Everybody who reads a cache (B, K, P, d) reads each position's from the one before it."""

    def edit(model: onnx.ModelProto) -> None:
        graph, places = model.graph, readers(model.graph, name)
        for constant, values in (("first", [0]), ("one", [1]), ("last", [-1]), ("end", [2**31 - 1]), ("axis", [2])):
            graph.initializer.append(numpy_helper.from_array(np.array(values), f"planted.{constant}"))
        for node, place in places:
            node.input[place] = "planted"
        slices = {
            "planted.head": ["planted.first", "planted.one"],
            "planted.body": ["planted.first", "planted.last"],
        }
        made = [helper.make_node("Slice", [name, *ends, "planted.axis"], [made], made) for made, ends in slices.items()]
        made.append(helper.make_node("Concat", ["planted.head", "planted.body"], ["planted"], "planted", axis=2))
        for node in reversed(made):
            graph.node.insert(0, node)

    return edit


def exchanged(one: str, other: str) -> Edit:
    """Who reads one value reads the other, and the other way round."""

    def edit(model: onnx.ModelProto) -> None:
        places = [(each, readers(model.graph, each)) for each in (one, other)]
        for name, read in places:
            for node, place in read:
                node.input[place] = other if name == one else one

    return edit


FAULTS: dict[str, tuple[str, Edit, str]] = {
    "past keys shifted by one": ("decode.onnx", shifted("past.1.key"), "cached_loop"),
    "another layer's cached keys": ("decode.onnx", exchanged("past.0.key", "past.1.key"), "cached_loop"),
    "another layer's cached values": ("decode.onnx", exchanged("past.0.value", "past.1.value"), "cached_loop"),
    "greedy": ("decode.onnx", behind("noise", "Mul", number(0)), "sampler_tokens"),
    "noise halved": ("decode.onnx", behind("noise", "Mul", number(0.5)), "sampler_tokens"),
    "a token never drawn": ("decode.onnx", behind("noise", "Add", never(3)), "sampler_tokens"),
    "guidance dropped": ("decode.onnx", behind("guidance", "Mul", number(0.5)), "sampler_tokens"),
    "temperature ignored": ("decode.onnx", behind("temperature", "Div", number(0.9)), "sampler_tokens"),
    "top-k of another k": ("decode.onnx", behind("top_k", "Sub", np.array([6])), "sampler_tokens"),
    "images inverted": (
        "image_decoder.onnx",
        output_behind("images", "Sub", number(255, "uint8"), first=True),
        "images",
    ),
    "single file's images inverted": (
        "generate.onnx",
        output_behind("images", "Sub", number(255, "uint8"), first=True),
        "single_file_images",
    ),
    "single file's seed": ("generate.onnx", behind("seed", "Add", number(1, "int64")), "single_file_tokens"),
    "encoder inverted": (
        "image_encoder.onnx",
        behind("images", "Sub", number(255, "uint8"), first=True),
        "encoder_agreement",
    ),
}


def test_a_sound_engine_keeps_every_promise(models) -> None:
    found = verified(*models)
    assert found.verdict.passed
    assert found.results["sampler"].tokens == 16 * 64
    assert found.results["one_file"].tokens == found.results["coupled"].edit_rate == 0
    assert found.results["shown"].psnr == 140
    assert found.results["encoding"].agreement == 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name, models, tmp_path) -> None:
    checkpoint, engine = models
    file, edit, promise = FAULTS[name]
    breaches = verified(checkpoint, edited(engine, tmp_path / "faulty", file, edit)).verdict.breaches
    assert promise in [each.measurement for each in breaches]
    assert all("\n" not in each.text for each in breaches)


@pytest.mark.parametrize(("setting", "value"), [("cfg_scale", 1.0), ("temperature", 0.5), ("top_k", 0)])
def test_another_setting_in_the_manifest_is_named(setting, value, models, tmp_path) -> None:
    checkpoint, engine = models
    shutil.copytree(engine, tmp_path / "faulty")
    manifest = Manifest.load(engine)
    replace(manifest, sampler=replace(manifest.sampler, **{setting: value})).save(tmp_path / "faulty")
    (breach, *_) = [
        each for each in verified(checkpoint, tmp_path / "faulty").verdict.breaches if each.measurement == "sampler"
    ]
    assert f"its sampler is not the reference's: {setting} {value}, not {getattr(SAMPLER, setting)}" in breach.text

"""Faults planted in copies of a sound engine, each seen by `verify` without a gate, and the sound engine by none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.models.families import reference
from compress.passes import find
from compress.verifying.comparison import Comparison, compare
from compress.verifying.selftest.faults import never
from compress.verifying.selftest.graph_edits import Edit, behind, exchanged, number, output_behind, shifted
from compress.verifying.selftest.trial import edited
from export.runtime.sampling import Sampler

SAMPLER = Sampler(cfg_scale=2.0, temperature=0.9, top_k=9)


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
    breaches = verified(checkpoint, edited(engine, tmp_path / "faulty", {file: edit}, {})).verdict.breaches
    assert promise in [each.measurement for each in breaches]
    assert all("\n" not in each.text for each in breaches)


@pytest.mark.parametrize(("setting", "value"), [("cfg_scale", 1.0), ("temperature", 0.5), ("top_k", 0)])
def test_another_setting_in_the_manifest_is_named(setting, value, models, tmp_path) -> None:
    checkpoint, engine = models
    faulty = edited(engine, tmp_path / "faulty", {}, {setting: value})
    (breach, *_) = [each for each in verified(checkpoint, faulty).verdict.breaches if each.measurement == "sampler"]
    assert f"its sampler is not the reference's: {setting} {value}, not {getattr(SAMPLER, setting)}" in breach.text

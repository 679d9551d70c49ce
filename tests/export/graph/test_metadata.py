"""ONNX files say what they are, the same whenever the same engine is written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import onnx

from export.graph.metadata import PICTURES, producer_version
from export.graph.onnx_model import OnnxModel
from export.rewrites.single_file import single_file
from export.runtime.manifest import GENERATE, NOT_IN_KEY, Manifest
from export.runtime.sampling import Sampler

NAMES = tuple(f"class {number}" for number in range(10))


def with_all(model: OnnxModel) -> OnnxModel:
    """A model with names, a licence and a single file."""
    manifest = replace(
        model.manifest,
        sampler=Sampler(cfg_scale=2, top_k=5),
        licence="Apache-2.0",
        shape=replace(model.manifest.shape, class_names=NAMES),
        files={**model.manifest.files, "generate": GENERATE},
    )
    model = replace(model, manifest=manifest)
    return replace(model, generate=single_file(model))


def metadata(path: Path) -> dict[str, str]:
    """That of a file."""
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_every_graph_says_whose_it_is(exported, tmp_path: Path) -> None:
    with_all(exported("rotary")).save(tmp_path)
    manifest = Manifest.load(tmp_path)
    for name, file in manifest.files.items():
        found = metadata(tmp_path / file)
        assert found["name"] == "tiny"
        assert found["family"] == "reference"
        assert found["graph"] == name
        assert found["licence"] == "Apache-2.0"
        assert found.get("manifest_key") == (None if name in PICTURES else manifest.key)
        assert ("sampler" in found) is ("class_names" in found) is (name in ("decode", "generate"))
        graph = onnx.load(tmp_path / file)
        assert (graph.producer_name, graph.producer_version) == ("compress", producer_version())
    found = metadata(tmp_path / "decode.onnx")
    assert json.loads(found["class_names"]) == list(NAMES)
    assert json.loads(found["sampler"])["top_k"] == 5


def test_the_key_is_that_of_the_manifest_without_what_says_of_files(exported, tmp_path: Path) -> None:
    with_all(exported("rotary")).save(tmp_path)
    said = json.loads((tmp_path / "manifest.json").read_text())
    kept = {name: value for name, value in said.items() if name not in (*NOT_IN_KEY, "format", "sha256")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest = Manifest.load(tmp_path)
    assert manifest.key == hashlib.sha256(text.encode()).hexdigest()
    assert replace(manifest, measured={"kl": 1.0}, provenance={"recipe": "r"}).key == manifest.key
    assert replace(manifest, sampler=Sampler()).key != manifest.key


def test_engines_that_share_an_image_decoder_have_the_same_file(exported, tmp_path: Path) -> None:
    for room, model in (("one", exported("rotary")), ("other", with_all(exported("rotary")))):
        (tmp_path / room).mkdir()
        replace(model, manifest=replace(model.manifest, licence="")).save(tmp_path / room)
    for name, equal in (("image_decoder.onnx", True), ("decode.onnx", False)):
        assert ((tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()) is equal


def test_an_engine_that_is_written_again_has_equal_bytes(exported, tmp_path: Path) -> None:
    for room in ("first", "second", "third"):
        (tmp_path / room).mkdir()
    with_all(exported("rotary")).save(tmp_path / "first")
    with_all(exported("rotary")).save(tmp_path / "second")
    OnnxModel.load(tmp_path / "first").save(tmp_path / "third")
    for path in (tmp_path / "first").iterdir():
        for room in ("second", "third"):
            assert (tmp_path / room / path.name).read_bytes() == path.read_bytes(), path.name

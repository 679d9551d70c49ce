"""A manifest survives its folder, and says of every folder that is not whole which file is wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import EngineError, Manifest, file_hash
from export.sampling import Sampler
from export.shape import Shape, TextShape

MANIFEST = Manifest(
    name="tiny",
    family="reference",
    target="onnxruntime",
    cache="shared",
    shape=Shape("causal", 17, 10, (8, 4)),
    head_width=16,
    kv_heads=(2, 1),
    sampler=Sampler(1.5, 0.9, 5, 0.8),
    parameters=1234,
    provenance={"recipe": "fast"},
    measured={"ms": 1.5},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest and what stands for its graphs."""
    for name in MANIFEST.files.values():
        (tmp_path / name).write_bytes(name.encode())
    MANIFEST.save(tmp_path)
    return tmp_path


def refusal(folder: Path) -> str:
    """Why a folder is refused."""
    with pytest.raises(EngineError) as error:
        Manifest.load(folder)
    return str(error.value)


def edit(folder: Path, **changes: object) -> None:
    """Change what a manifest says."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_comes_back_as_it_was(folder) -> None:
    assert Manifest.load(folder) == MANIFEST


def test_a_manifest_holds_the_hash_of_every_file(folder) -> None:
    value = json.loads((folder / "manifest.json").read_text())
    assert value["format"] == 1
    assert value["sha256"] == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("decode.onnx", "image_decoder.onnx")
    }


@pytest.mark.parametrize(
    "shape",
    [
        Shape("masked", 17, 10, (8, 4), outputs=18, modulated=True),
        Shape("next-scale", 17, 10, (2, 2), modulated=True, scales=(1, 2), latent_width=8),
        Shape("causal", 17, 1, (8, 4), lead=1, text=TextShape(5, 6)),
    ],
)
def test_the_shape_of_every_order_comes_back_as_it_was(folder, shape) -> None:
    sampler = Sampler(4.0, guidance="linear", end_temperature=0.5, schedule="arccos", reveal="halton")
    manifest = replace(MANIFEST, shape=shape, sampler=sampler)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest


def test_a_files_hash_is_its_sha256(tmp_path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_without_a_manifest_is_no_engine(tmp_path) -> None:
    path = tmp_path / "manifest.json"
    assert refusal(tmp_path) == f"{path}: there is no such file; an engine folder holds manifest.json"


def test_a_file_is_no_engine_folder(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    assert refusal(tmp_path / "model.onnx").endswith("there is no such file; an engine folder holds manifest.json")


def test_a_manifest_that_is_not_json_is_refused(folder) -> None:
    (folder / "manifest.json").write_text("{")
    assert refusal(folder).startswith(f"{folder / 'manifest.json'}: not readable JSON (")


@pytest.mark.parametrize(("format_", "shown"), [(2, "2"), ("1", "'1'"), (None, "None")])
def test_a_manifest_of_another_format_is_refused(folder, format_, shown) -> None:
    edit(folder, format=format_)
    assert refusal(folder) == f"{folder / 'manifest.json'}: format is {shown}; this version reads format 1"


def test_a_manifest_that_is_a_list_is_refused(folder) -> None:
    (folder / "manifest.json").write_text("[1]")
    assert refusal(folder) == f"{folder / 'manifest.json'}: format is [1]; this version reads format 1"


@pytest.mark.parametrize("name", ["decode.onnx", "image_decoder.onnx"])
def test_a_damaged_file_is_named(folder, name) -> None:
    (folder / name).write_bytes(b"other")
    assert refusal(folder) == f"{folder / name}: damaged (its content is not what was exported); export it again"


@pytest.mark.parametrize("name", ["decode.onnx", "image_decoder.onnx"])
def test_a_missing_file_is_named(folder, name) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder / name}: missing from the engine folder"


def test_a_manifest_that_lacks_an_entry_says_which(folder) -> None:
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    del value["shape"]
    path.write_text(json.dumps(value))
    assert refusal(folder) == f"{path}: incomplete or wrong (KeyError: 'shape')"


def test_a_sampler_that_cannot_be_is_refused(folder) -> None:
    edit(folder, sampler={"cfg_scale": -1.0})
    assert refusal(folder).startswith(f"{folder / 'manifest.json'}: incomplete or wrong (ValueError: cfg_scale -1.0")

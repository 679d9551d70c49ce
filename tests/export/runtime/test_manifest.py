"""A manifest survives its folder, and says of every folder that is not whole which file is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from export.runtime import manifest as manifest_module
from export.runtime.manifest import EngineError, Manifest, file_hash
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, TextShape

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
    ("shape", "changes"),
    [
        (Shape("masked", 17, 10, (8, 4), outputs=18, modulated=True), {"cache": "none", "kv_heads": ()}),
        (Shape("next-scale", 17, 10, (2, 2), modulated=True, scales=(1, 2), latent_width=8), {"cache": "growing"}),
        (Shape("causal", 17, 1, (8, 4), lead=1, text=TextShape(5, 6)), {"cache": "shared", "cache_format": "int4"}),
    ],
)
def test_the_shape_of_every_order_comes_back_as_it_was(folder, shape, changes) -> None:
    sampler = Sampler(4.0, guidance="linear", end_temperature=0.5, schedule="arccos", reveal="halton")
    files = {**MANIFEST.files, "scales": "decode.onnx"} if shape.scales else MANIFEST.files
    manifest = replace(MANIFEST, shape=shape, sampler=sampler, files=files, **changes)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"cache": "growing", "cache_format": "int8"},
            "cache is 'growing' and cache_format 'int8'; only a 'shared' cache is quantized",
        ),
        (
            {"head_width": 5, "cache_format": "int4"},
            "head_width is 5; two numbers of int4 share a byte, so it must be even",
        ),
    ],
)
def test_a_quantized_cache_is_shared_and_fills_its_bytes(changes, reason) -> None:
    assert list(replace(MANIFEST, **changes).contradictions()) == [reason]


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


def change(folder: Path, *keys: str, value: object) -> None:
    """Put a value somewhere into a manifest; ... takes the key out."""
    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    if value is ...:
        del inner[keys[-1]]
    path.write_text(json.dumps(whole))


LONG = "x" * 500


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (("shape",), ..., "'shape' is missing"),
        (("sha256",), ..., "'sha256' is missing; it holds the hash of every file"),
        (("extra",), 1, "unknown key 'extra'; known: build, cache, cache_format, "),
        (("kv_head",), 1, "unknown key 'kv_head'; did you mean 'kv_heads'?"),
        (("name",), None, "name: None is not text"),
        (("name",), 3, "name: 3 is not text"),
        (("target",), "gpu", "target: 'gpu' is not one of 'onnxruntime', 'standard', 'tensorrt'"),
        (("cache",), None, "cache: None is not one of 'growing', 'shared', 'static', 'none'"),
        (("cache",), ["none"], "cache: ['none'] is not one of 'growing', 'shared', 'static', 'none'"),
        (
            ("cache_format",),
            LONG,
            f"cache_format: '{LONG[:199]}... is not one of 'float32', 'float16', 'bfloat16', 'int8', 'int4'",
        ),
        (("kv_heads",), [-1], "kv_heads[0]: -1 is out of range; it must be between 1 and 65536"),
        (("kv_heads",), 3, "kv_heads: 3 is not a list"),
        (("kv_heads",), [True], "kv_heads[0]: True is not a whole number"),
        (("kv_heads",), [], "cache is 'shared', so kv_heads and head_width must not be empty or 0"),
        (("head_width",), 16.0, "head_width: 16.0 is not a whole number"),
        (("head_width",), 10**30, f"head_width: {10**30} is out of range; it must be between 0 and 65536"),
        (("parameters",), -1, "parameters: -1 is out of range; it must be at least 0"),
        (("weight_only",), 1, "weight_only: 1 is not true or false"),
        (("fixed_batch",), -1, "fixed_batch: -1 is out of range; it must be between 0 and 65536"),
        (("shape",), None, "shape: None is not a mapping"),
        (("shape", "grid"), ["4", 4], "shape.grid[0]: '4' is not a whole number"),
        (("shape", "grid"), [4, 4, 4], "shape.grid: [4, 4, 4] has 3 items; 2 are needed"),
        (("shape", "grid"), [0, 4], "shape.grid[0]: 0 is out of range; it must be between 1 and 65536"),
        (("shape", "order"), "raster", "shape: order 'raster' is not one of 'causal', 'masked', 'next-scale'"),
        (("shape", "order"), "masked", "cache is 'shared'; a masked model has none"),
        (("shape", "order"), "next-scale", "order is 'next-scale'; next-scale models, and no others, have scales, a"),
        (("shape", "scales"), [1, 2], "order is 'causal'; next-scale models, and no others, have scales, a"),
        (("shape", "outputs"), 3, "shape.outputs is 3; there are 17 tokens to choose from"),
        (("shape", "vocabulary"), 0, "shape.vocabulary: 0 is out of range; it must be between 1 and 2147483647"),
        (("shape", "text"), {"length": 5}, "shape.text: 'width' is missing"),
        (("shape", "unknown"), 1, "shape: unknown key 'unknown'; known: class_names, classes, grid"),
        (("target",), "tensorrt", "cache is 'shared'; one for tensorrt is 'static' or 'none'"),
        (("sampler",), {"cfg_scale": -1.0}, "sampler: cfg_scale -1.0: must be at least 0"),
        (("sampler",), {"cfg_scale": "2"}, "sampler.cfg_scale: '2' is not a number"),
        (("sampler",), {"top_k": 1.5}, "sampler.top_k: 1.5 is not a whole number"),
        (("sampler",), {"reveal": "all"}, "sampler.reveal: 'all' is not one of 'halton', 'confidence', 'logit'"),
        (("sampler",), [], "sampler: [] is not a mapping"),
        (("provenance",), [], "provenance: [] is not a mapping"),
        (("files",), None, "files: None is not a mapping"),
        (("files",), {"decode": None}, "files['decode']: None is not text"),
        (
            ("files", "image_decoder"),
            ...,
            "files: 'image_decoder' is missing; every engine has decode and image_decoder",
        ),
        (("files", "decoder"), "decode.onnx", "files: unknown key 'decoder'; known: decode, image_decoder, "),
        *(
            (("files", "decode"), name, f"files.decode: {name!r} is not the name of a file in the engine folder; write")
            for name in (
                "../decode.onnx",
                "/tmp/decode.onnx",
                "a/decode.onnx",
                "..",
                "",
                "C:\\x.onnx",
                "a\0.onnx",
                ".x",
            )
        ),
        (("files", "decode"), "decode.ort", "files.decode: 'decode.ort' does not end in .onnx"),
        (("sha256", "decode.onnx"), ..., "sha256: has no hash of 'decode.onnx'; export the engine again"),
        (("sha256", "other.onnx"), "0" * 64, "sha256: 'other.onnx' is none of the files that the engine has"),
        (("sha256", "decode.onnx"), None, "sha256['decode.onnx']: None is not text"),
        (("sha256", "decode.onnx"), "abc", "sha256['decode.onnx']: 'abc' is not a SHA-256 in 64 hex digits"),
        (("sha256",), [], "sha256: [] is not a mapping"),
    ],
)
def test_what_a_manifest_may_not_say_is_named_with_its_place(folder, keys, value, text) -> None:
    change(folder, *keys, value=value)
    found = refusal(folder)
    assert found.startswith(f"{folder / 'manifest.json'}: {text}")
    assert "\n" not in found


def test_numbers_that_are_whole_may_stand_for_others_and_what_has_a_default_may_be_missing(folder) -> None:
    change(folder, "sampler", value={"cfg_scale": 2, "temperature": 0})
    for key in ("weight_only", "fixed_batch", "cache_format", "provenance", "measured"):
        change(folder, key, value=...)
    assert Manifest.load(folder) == replace(MANIFEST, sampler=Sampler(2, 0), provenance={}, measured={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 1, "format": 1}', "not readable JSON (key 'format' stands twice)"),
        ('{"format": NaN}', "not readable JSON (NaN is not a number of JSON)"),
        ('{"format": -Infinity}', "not readable JSON (-Infinity is not a number of JSON)"),
        ('{"format": 1e999}', "not readable JSON (1e999 is too large a number)"),
        ("[" * 100_000, "lists and mappings lie too deep inside each other; 64 levels are read"),
        ("[" * 70 + "]" * 70, "lists and mappings lie too deep inside each other; 64 levels are read"),
        ('{"format": true}', "format is True; this version reads format 1"),
        ('{"format": 1.0}', "format is 1.0; this version reads format 1"),
        ("null", "format is None; this version reads format 1"),
        ("", "not readable JSON (Expecting value: line 1 column 1 (char 0))"),
        ("9" * 5000, "not readable JSON (Exceeds the limit (4300 digits) for integer string conversion: "),
        (f'["{LONG}"]', f"format is ['{LONG[:198]}...; this version reads format 1"),
        (b"\xff\xfe".decode("latin-1"), "format is"),
    ],
    ids=range(13),
)
def test_json_that_is_not_strict_is_refused(folder, text, said) -> None:
    path = folder / "manifest.json"
    path.write_text(text, encoding="utf-8")
    if text.startswith("\xff"):
        path.write_bytes(b"\xff\xfe")
        said = "not readable JSON ('utf-8' codec can't decode byte 0xff in position 0"
    assert refusal(folder).startswith(f"{path}: {said}")


def test_a_manifest_of_any_size_is_refused_after_a_bounded_part(folder, monkeypatch) -> None:
    monkeypatch.setattr(manifest_module, "LARGEST_MANIFEST", 2000)
    path = folder / "manifest.json"
    path.write_text(path.read_text() + " " * 2000)
    assert refusal(folder) == f"{path}: is larger than 2000 bytes, which is the most that is read"


def test_a_manifest_that_never_ends_is_refused(folder) -> None:
    path = folder / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    assert refusal(folder) == f"{path}: is not a regular file (a device, FIFO or socket); a file is needed"
    path.unlink()
    path.mkdir()
    assert refusal(folder) == f"{path}: is a folder; a file is needed"


def test_numbers_that_json_has_not_are_not_written(folder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(MANIFEST, measured={"ms": float("nan")}).save(folder)

"""Engine folders that name files outside, leave out hashes or parts, and one engine that several threads share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.runtime.engine import Engine, EngineError


@pytest.fixture
def engine(corpus: Path, here: Path) -> Path:
    """A copy of the engine that a test may change."""
    shutil.copytree(corpus / "engine", here / "e")
    return here / "e"


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Change the manifest in place."""
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))
    return value


def drawn(folder: Path) -> tuple[object, ...]:
    """The command line that draws a picture with the engine."""
    return ("generate", folder, "--labels", 1, "-o", folder.parent / "o.png", "--threads", 1)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    "place", ["../outside.onnx", "{here}/outside.onnx", "sub/../../outside.onnx", "./../outside.onnx"]
)
def test_a_graph_outside_the_folder_is_not_run(
    place: str, hashed: bool, engine: Path, here: Path, refused: Callable[..., str]
) -> None:
    shutil.copy(engine / "decode.onnx", here / "outside.onnx")
    name = place.format(here=here)

    def change(value: dict[str, Any]) -> None:
        value["files"]["decode"] = name
        if hashed:
            value["sha256"][name] = digest(here / "outside.onnx")

    edited(engine, change)
    refused(*drawn(engine), named=("manifest.json",))


@pytest.mark.parametrize("target", ["/dev/zero", "../outside.onnx", "nothing", "decode.onnx", ".", "/dev/stdin"])
def test_a_link_in_the_folder_leads_to_no_device_and_nowhere_else(
    target: str, engine: Path, here: Path, refused: Callable[..., str]
) -> None:
    shutil.copy(engine / "decode.onnx", here / "outside.onnx")
    (here / "outside.onnx").write_bytes((here / "outside.onnx").read_bytes() + b"\x00\x00")
    (engine / "decode.onnx").unlink()
    (engine / "decode.onnx").symlink_to(target)
    refused(*drawn(engine), named=("decode.onnx",))


def test_a_fifo_in_the_folder_is_not_waited_for(engine: Path, refused: Callable[..., str]) -> None:
    for name in ("decode.onnx", "manifest.json"):
        (engine / name).unlink()
        os.mkfifo(engine / name)
        refused(*drawn(engine), named=(name,))
        (engine / name).unlink()
        (engine / name).touch()


@pytest.mark.parametrize("name", ["decode.onnx", "image_decoder.onnx", "image_encoder.onnx"])
def test_every_file_that_is_used_needs_its_hash(name: str, engine: Path, refused: Callable[..., str]) -> None:
    edited(engine, lambda value: value["sha256"].pop(name))
    refused(*drawn(engine), named=("manifest.json", name))


@pytest.mark.parametrize("name", ["decode.onnx", "image_decoder.onnx", "image_encoder.onnx"])
@pytest.mark.parametrize("how", ["append", "flip", "cut", "empty", "missing"])
def test_a_changed_file_is_not_used(name: str, how: str, engine: Path, refused: Callable[..., str]) -> None:
    path = engine / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        changed = {
            "append": data + b"\x00\x00",
            "flip": data[:200] + bytes([data[200] ^ 1]) + data[201:],
            "cut": data[:-1],
            "empty": b"",
        }
        path.write_bytes(changed[how])
    refused(*drawn(engine), named=(name,))


@pytest.mark.parametrize("name", ["decode.onnx", "image_decoder.onnx"])
@pytest.mark.parametrize("how", ["text", "cut", "empty", "other"])
def test_a_graph_that_is_none_is_refused_though_its_hash_fits(
    name: str, how: str, engine: Path, refused: Callable[..., str]
) -> None:
    data = (engine / name).read_bytes()
    other = (engine / ("image_encoder.onnx")).read_bytes()
    (engine / name).write_bytes({"text": b"no graph", "cut": data[: len(data) // 2], "empty": b"", "other": other}[how])
    edited(engine, lambda value: value["sha256"].update({name: digest(engine / name)}))
    refused(*drawn(engine), named=(name,))


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "files null": lambda value: value.update(files=None),
    "files a list": lambda value: value.update(files=["decode.onnx"]),
    "files empty": lambda value: value.update(files={}),
    "files without decode": lambda value: value["files"].pop("decode"),
    "files without image_decoder": lambda value: value["files"].pop("image_decoder"),
    "a file of an unknown kind": lambda value: value["files"].update(decoed="decode.onnx"),
    "a file that is a number": lambda value: value["files"].update(decode=5),
    "a file that is nothing": lambda value: value["files"].update(decode=""),
    "a file that is the folder": lambda value: value["files"].update(decode="."),
    "the decode graph as image decoder": lambda value: value["files"].update(image_decoder="decode.onnx"),
    "sha256 missing": lambda value: value.pop("sha256"),
    "sha256 null": lambda value: value.update(sha256=None),
    "sha256 empty": lambda value: value.update(sha256={}),
    "sha256 a list": lambda value: value.update(sha256=[]),
    "a hash null": lambda value: value["sha256"].update({"decode.onnx": None}),
    "a hash of nothing": lambda value: value["sha256"].update({"nothing.onnx": "0" * 64}),
    "format 2": lambda value: value.update(format=2),
    "format true": lambda value: value.update(format=True),
    "format 1.0": lambda value: value.update(format="1"),
    "an unknown key": lambda value: value.update(cahce="growing"),
    "an unknown key in shape": lambda value: value["shape"].update(vocabluary=17),
    "an unknown key in sampler": lambda value: value["sampler"].update(topk=3),
    "shape null": lambda value: value.update(shape=None),
    "shape missing": lambda value: value.pop("shape"),
    "an unknown order": lambda value: value["shape"].update(order="random"),
    "another order": lambda value: value["shape"].update(order="masked"),
    "classes as text": lambda value: value["shape"].update(classes="10"),
    "negative classes": lambda value: value["shape"].update(classes=-1),
    "more classes": lambda value: value["shape"].update(classes=11),
    "another vocabulary": lambda value: value["shape"].update(vocabulary=16),
    "a huge vocabulary": lambda value: value["shape"].update(vocabulary=10**20),
    "another grid": lambda value: value["shape"].update(grid=[4, 5]),
    "a grid of nothing": lambda value: value["shape"].update(grid=[0, 0]),
    "a huge grid": lambda value: value["shape"].update(grid=[10**9, 10**9]),
    "a grid of one side": lambda value: value["shape"].update(grid=[4]),
    "a grid of floats": lambda value: value["shape"].update(grid=[4.0, 4.0]),
    "an unknown cache": lambda value: value.update(cache="grown"),
    "another cache": lambda value: value.update(cache="static"),
    "no cache": lambda value: value.update(cache="none"),
    "another format of the cache": lambda value: value.update(cache_format="int8"),
    "an unknown target": lambda value: value.update(target="onnx"),
    "another head width": lambda value: value.update(head_width=16),
    "a huge head width": lambda value: value.update(head_width=10**12),
    "a head width of text": lambda value: value.update(head_width="8"),
    "no heads": lambda value: value.update(kv_heads=[]),
    "one layer more": lambda value: value["kv_heads"].append(4),
    "heads of text": lambda value: value.update(kv_heads="4"),
    "a batch of text": lambda value: value.update(fixed_batch="1"),
    "a negative batch": lambda value: value.update(fixed_batch=-1),
    "sampling that is not there": lambda value: value.update(sampling=True),
    "sampling of text": lambda value: value.update(sampling="no"),
    "sampler null": lambda value: value.update(sampler=None),
    "temperature null": lambda value: value["sampler"].update(temperature=None),
    "temperature NaN": lambda value: value["sampler"].update(temperature=float("nan")),
    "temperature of text": lambda value: value["sampler"].update(temperature="1"),
    "negative temperature": lambda value: value["sampler"].update(temperature=-1),
    "infinite guidance": lambda value: value["sampler"].update(cfg_scale=float("inf")),
    "top_p 2": lambda value: value["sampler"].update(top_p=2),
    "top_k 1.5": lambda value: value["sampler"].update(top_k=1.5),
    "steps 0": lambda value: value["sampler"].update(steps=0),
    "an unknown schedule": lambda value: value["sampler"].update(schedule="sine"),
    "parameters of text": lambda value: value.update(parameters="many"),
    "a name of 100,000 letters in an unknown key": lambda value: value.update({"k" * 100_000: 1}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_manifest_that_does_not_describe_the_folder_is_refused(
    kind: str, engine: Path, refused: Callable[..., str]
) -> None:
    edited(engine, WRONG[kind])
    refused(*drawn(engine), named=(engine,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"5",
        b"{",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1, "format": 1}',
        b"NaN",
        b"{}",
    ],
)
def test_a_manifest_that_is_no_mapping_is_refused(data: bytes, engine: Path, refused: Callable[..., str]) -> None:
    (engine / "manifest.json").write_bytes(data)
    refused(*drawn(engine), named=("manifest.json",))


def test_a_manifest_of_gigabytes_is_refused_unread(engine: Path, refused: Callable[..., str]) -> None:
    with (engine / "manifest.json").open("r+b") as file:
        file.truncate(2**36)
    refused(*drawn(engine), named=("manifest.json",))


def test_every_verb_refuses_a_damaged_engine(engine: Path, corpus: Path, refused: Callable[..., str]) -> None:
    edited(engine, lambda value: value.update(files=None))
    for arguments in (
        ("bench", engine), ("profile", engine), ("verify", corpus / "model", engine), ("bisect",
        corpus / "model", engine),
        ("to-optimum", engine, "-o", engine.parent / "x"), ("models", "inspect", engine),
    ):  # fmt: skip
        refused(*arguments)


def test_the_runtime_raises_its_own_error_and_no_other(engine: Path) -> None:
    edited(engine, lambda value: value.update(files=None))
    with pytest.raises(EngineError, match=r"manifest\.json"):
        Engine.load(engine)


def test_threads_that_share_an_engine_draw_what_each_draws_alone(corpus: Path) -> None:
    engine = Engine.load(corpus / "engine", threads=1)
    requests = [([seed % 10] * (1 + seed % 3), seed, 1.0 if seed % 2 else 1.5) for seed in range(60)]
    alone = [engine.generate(labels, seed, cfg_scale=scale) for labels, seed, scale in requests]
    wrong: list[object] = []

    def draw(start: int) -> None:
        for number in range(start, len(requests) + start):
            labels, seed, scale = requests[number % len(requests)]
            try:
                made = engine.generate(labels, seed, cfg_scale=scale)
                if not np.array_equal(made, alone[number % len(requests)]):
                    wrong.append(seed)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=draw, args=(7 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

"""Which files a checkpoint is read from: a folder's weights, its shards, and the config beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_checkpoints import OTHER, STATE, check, complaint, write

from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.containers import PICKLES

SUFFIXES = [".safetensors", *PICKLES]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_weights_file_is_read_with_the_config_beside_it(tmp_path, suffix):
    path = write(tmp_path / f"model{suffix}")
    assert Checkpoint.open(path).config == {}
    (tmp_path / "config.json").write_text('{"heads": 4, "width": 8}')
    checkpoint = Checkpoint.open(path, {"heads": 2, "grid": [4, 4]})
    check(checkpoint)
    assert checkpoint.config == {"heads": 2, "width": 8, "grid": [4, 4]}
    assert (checkpoint.path, checkpoint.weights) == (path, (path,))
    assert checkpoint.bytes == 6 * 4 + 6 * 2 + 3 * 4
    assert (checkpoint.numbers("layers"), checkpoint.numbers("blocks")) == (2, 0)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "c2i_B_256.pt"]
    + [f"checkpoint{suffix}" for suffix in SUFFIXES],
)
def test_the_weights_of_a_folder_are_found_by_their_name_or_because_they_are_alone(tmp_path, name):
    path = write(tmp_path / name)
    (tmp_path / "config.json").write_text('{"heads": 4}')
    (tmp_path / "README.md").write_text("")
    checkpoint = Checkpoint.open(tmp_path)
    check(checkpoint)
    assert (checkpoint.path, checkpoint.weights, checkpoint.config) == (tmp_path, (path,), {"heads": 4})


def test_hugging_face_names_come_before_others(tmp_path):
    write(tmp_path / "a.pt", OTHER)
    write(tmp_path / "checkpoint.pt", OTHER)
    write(tmp_path / "pytorch_model.bin", OTHER)
    write(tmp_path / "model.safetensors")
    check(Checkpoint.open(tmp_path))


def test_a_folder_that_leaves_a_choice_is_refused_with_its_files(tmp_path):
    write(tmp_path / "b.pt")
    write(tmp_path / "a.safetensors")
    assert complaint(tmp_path) == f"{tmp_path}: holds a.safetensors, b.pt; give the path of the one to read"


def test_a_folder_without_weights_and_a_missing_path_are_refused(tmp_path):
    assert complaint(tmp_path) == (
        f"{tmp_path}: holds no weights; looked for files that end in .safetensors, .pt, .pth, .bin, .ckpt"
    )
    assert complaint(tmp_path / "none.pt") == f"{tmp_path / 'none.pt'}: there is no such checkpoint file"


@pytest.mark.parametrize(("content", "said"), [("{", ":1:2: not valid JSON"), ("[1]", ": holds list, not a mapping")])
def test_a_damaged_config_is_refused(tmp_path, content, said):
    write(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert complaint(tmp_path).startswith(f"{tmp_path / 'config.json'}{said}")


def shard(folder: Path, suffix: str) -> tuple[Path, list[Path]]:
    """A checkpoint in two files and its index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002{suffix}" for i in (1, 2)]
    parts = [dict(list(STATE.items())[:1]), dict(list(STATE.items())[1:])]
    files = [write(folder / name, part) for name, part in zip(names, parts, strict=True)]
    index = folder / f"{stem}{suffix}.index.json"
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": places}))
    return index, files


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_sharded_checkpoint_is_read_through_its_index(tmp_path, suffix):
    _, files = shard(tmp_path, suffix)
    checkpoint = Checkpoint.open(tmp_path)
    check(checkpoint)
    assert checkpoint.weights == tuple(files)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_missing_shard_is_named(tmp_path, suffix):
    index, files = shard(tmp_path, suffix)
    files[1].unlink()
    assert complaint(tmp_path) == f"{files[1]}: this shard is missing; {index.name} lists it"


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    index, files = shard(tmp_path, ".safetensors")
    write(files[1], {"norm.weight": STATE["norm.weight"]})
    assert complaint(tmp_path) == f"{files[1]}: tensor 'layers.1.weight' is missing; {index.name} says it is here"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "'weight_map' is missing; it says which file holds each tensor"),
        (
            {"weight_map": {"a": "../a.safetensors"}},
            "'a' is said to be in '../a.safetensors', which is no file beside it",
        ),
        ({"weight_map": {"a": 1}}, "'a' is said to be in 1, which is no file beside it"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path, content, said):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps(content))
    assert complaint(tmp_path) == f"{index}: {said}"


def test_a_sharded_checkpoint_has_one_set_of_weights(tmp_path):
    index, _ = shard(tmp_path, ".bin")
    assert complaint(tmp_path, weights="ema") == (
        f"{index}: holds no 'ema'; a sharded checkpoint holds one set of weights"
    )


def test_special_files_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    assert complaint(tmp_path / "m.pt").endswith("is a named pipe, not a regular file")
    (tmp_path / "d.safetensors").symlink_to("/dev/zero")
    assert complaint(tmp_path / "d.safetensors").endswith("is a device, not a regular file")
    (tmp_path / "b.pt").symlink_to(tmp_path / "nothing")
    assert complaint(tmp_path / "b.pt").endswith("there is no such checkpoint file")
    write(tmp_path / "x.pt")
    os.mkfifo(tmp_path / "config.json")
    assert complaint(tmp_path / "x.pt").endswith("config.json: is a pipe or a device, not a regular file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ("[" * 100_000, "nested deeper than 100 lists"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("\xff", "not UTF-8 text"),
    ],
)
def test_a_config_is_read_strictly(tmp_path, text, said):
    write(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert said in complaint(tmp_path)


def test_a_config_without_end_is_refused(tmp_path):
    write(tmp_path / "model.safetensors")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert "is larger than 65536 KiB" in complaint(tmp_path)

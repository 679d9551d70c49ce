"""Checkpoints that are damaged or lie: one line, no crash, and no code that runs."""

from __future__ import annotations

import argparse
import os
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from small_checkpoints import OTHER, STATE, Trap, check, complaint, write

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint


@pytest.mark.parametrize("zipped", [True, False])
def test_code_beside_the_weights_or_in_a_namespace_is_refused_and_not_executed(tmp_path, zipped):
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    for content in (
        {"model": STATE, "extra": Trap(sprung)},
        {"model": STATE, "args": argparse.Namespace(x=Trap(sprung))},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert "nothing in it was executed" in complaint(path)
        assert not sprung.exists()
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "allowed only while a checkpoint is read"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_shrinks_after_it_was_opened_is_an_error_and_no_crash(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", {f"t{index}": torch.full((5000,), float(index)) for index in range(4)})
    checkpoint = Checkpoint.open(path)
    os.truncate(path, 30_000)
    assert float(checkpoint["t0"].sum()) == 0, "what is before the cut is still there"
    with pytest.raises(InputError, match=r"ends early; it was changed after it was opened$"):
        checkpoint["t3"]
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\)$"):
        checkpoint["t0"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_pickle_is_refused_in_one_line(tmp_path, share, zipped):
    path = tmp_path / "a.pt"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(share * path.stat().st_size))
    assert complaint(path).startswith(f"{path}: ")


def rewrite(source: Path, target: Path, compression: int, order: bytes) -> None:
    """A PyTorch file zipped anew."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, order if record.filename.endswith("byteorder") else old.read(record))


def test_a_compressed_file_is_read_whole(tmp_path):
    source = write(tmp_path / "a.pt")
    rewrite(source, tmp_path / "b.pt", zipfile.ZIP_DEFLATED, b"little")
    check(Checkpoint.open(tmp_path / "b.pt"))


def test_a_file_of_another_byte_order_does_not_crash_the_process(tmp_path):
    state = {"a": torch.arange(6.0), "b": torch.arange(4).half()}
    swapped = {"a": state["a"].numpy().byteswap(), "b": state["b"].numpy().byteswap()}
    source = write(tmp_path / "a.pt", {name: torch.from_numpy(array) for name, array in swapped.items()})
    rewrite(source, tmp_path / "b.pt", zipfile.ZIP_STORED, b"big")
    check(Checkpoint.open(tmp_path / "b.pt"), state)


def test_a_record_that_is_smaller_than_its_tensor_is_refused(tmp_path):
    source, path = write(tmp_path / "a.pt", {"a": torch.ones(300), "b": torch.ones(300)}), tmp_path / "b.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            content = old.read(record)
            new.writestr(record.filename, content[:100] if record.filename.endswith("data/0") else content)
    assert complaint(path) == f"{path}: not a readable checkpoint, truncated or damaged ('a' is larger than its record)"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_tensors_and_tensors_without_values_are_refused(tmp_path):
    path = write(tmp_path / "a.pt", {"a": torch.eye(3).to_sparse()})
    assert complaint(path) == f"{path}: tensor 'a' is sparse or quantized; save it as a plain tensor"
    write(path, {"a": torch.ones(3, device="meta")})
    assert complaint(path) == f"{path}: tensor 'a' has no values; it was on the meta device when it was saved"


@pytest.mark.parametrize("zipped", [True, False])
def test_random_damage_is_one_line_or_leaves_tensors_that_can_be_read(tmp_path, zipped):
    path, generator = tmp_path / "a.pt", torch.Generator().manual_seed(0)
    torch.save({"model": STATE, "ema": OTHER}, path, _use_new_zipfile_serialization=zipped)
    content, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(content)
        for place, value in zip(
            torch.randint(len(content), (4,), generator=generator).tolist(),
            torch.randint(256, (4,), generator=generator).tolist(),
            strict=True,
        ):
            damaged[place] = value
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                checkpoint = Checkpoint.open(path)
                for name in checkpoint:
                    assert tuple(checkpoint[name].shape) == checkpoint.shape(name)
            except InputError:
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 257])
def test_names_that_cannot_be_shown_are_refused(tmp_path, name):
    assert complaint(write(tmp_path / "m.pt", {name: torch.ones(1)})).endswith(
        "names have 1 to 256 printable characters"
    )


def test_archives_that_would_expand_without_measure_are_refused(tmp_path):
    path = write(tmp_path / "m.pt", {"a": torch.zeros(80_000_000, dtype=torch.uint8)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
        new.writestr("bomb", bytes(250_000_000))
    assert (tmp_path / "b.pt").stat().st_size < 1_000_000
    assert "bytes would expand to 33" in complaint(tmp_path / "b.pt")


def test_a_tensor_that_is_one_number_repeated_without_measure_is_refused(tmp_path):
    path = write(tmp_path / "m.pt", {"a": torch.zeros(1).expand(10**9)})
    assert complaint(path).endswith("tensor 'a' is (1000000000,), more than the file can hold")


@pytest.mark.parametrize("size", [2**62, 10**9])
def test_a_header_that_lies_about_its_size_is_refused(tmp_path, size):
    (tmp_path / "m.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    assert f"its header is said to take {size} bytes" in complaint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}',
        '{"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}',
        '{"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}',
        '{"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}',
        '{"dtype": "F32", "shape": [1e3], "data_offsets": [0, 8]}',
        '{"dtype": "F32", "shape": [99999999999999999999], "data_offsets": [0, 8]}',
        '{"dtype": {"F32": null}, "shape": [2], "data_offsets": [0, 8]}',
        '["F32", [2], [0, 8]]',
        "[]", "null", "[" * 50_000,
    ],
)  # fmt: skip
def test_headers_that_lie_about_a_tensor_are_refused(tmp_path, entry):
    header = f'{{"a": {entry}}}'.encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "not a readable safetensors file, truncated or damaged (" in complaint(tmp_path / "m.safetensors")


def test_tensors_that_lie_in_the_same_bytes_are_refused(tmp_path):
    each = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    header = f'{{"a": {each}, "b": {each}}}'.encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "not a readable safetensors file, truncated or damaged (" in complaint(tmp_path / "m.safetensors")

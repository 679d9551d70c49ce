"""Published checkpoints: every layout and wrapping is found, tensors are read alone, filling keeps to its memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_checkpoints import STATE, check, complaint, write

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint


def bytes_read() -> int:
    """How many bytes this process has asked files for."""
    return int(next(line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line).split()[1])


def test_strided_and_shared_tensors_of_a_pickle_are_themselves(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "column": whole[:, 2], "slice": whole[1:3, 1:4], "turned": whole.t(), "same": whole, "again": whole,
        "wide": torch.ones(1).expand(5), "one": torch.tensor(3.0), "none": torch.ones(0, 3),
        "odd": torch.ones(3).byte(),
    }  # fmt: skip
    check(Checkpoint.open(write(tmp_path / "a.pt", state)), state)
    plain = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    check(Checkpoint.open(write(tmp_path / "a.safetensors", plain)), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.bool, torch.int64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_number_formats_are_kept(tmp_path, dtype, suffix):
    tensor = torch.tensor([0, 1, 1]).to(dtype)
    read = Checkpoint.open(write(tmp_path / f"a{suffix}", {"a": tensor}))["a"]
    assert read.dtype == dtype
    assert torch.equal(read.float(), tensor.float())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_one_tensor_is_read_without_the_others(tmp_path, suffix):
    state = {f"t{index}": torch.full((250_000,), float(index)) for index in range(20)}  # 1 MB each
    path = write(tmp_path / f"a{suffix}", state)
    Checkpoint.open(path)["t0"]  # what is imported late is read now
    before = bytes_read()
    checkpoint = Checkpoint.open(path)
    assert [checkpoint.shape(name) for name in checkpoint] == [(250_000,)] * 20
    assert bytes_read() - before < 200_000, "opening reads no tensor"
    before = bytes_read()
    assert float(checkpoint["t7"].sum()) == 7 * 250_000
    assert 1_000_000 <= bytes_read() - before < 1_100_000


def test_a_format_that_is_not_read_is_named(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert complaint(path) == f"{path}: tensor 'a' is F8_E8M0, a number format that is not read"


def test_renamed_tensors_are_the_same_ones_and_none_drops_them(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path / "a.pt"), {"heads": 1})
    view = checkpoint.renamed(lambda name: name.replace("layers", "blocks") if "layers" in name else None)
    check(view, {f"blocks.{i}.weight": STATE[f"layers.{i}.weight"] for i in (0, 1)})
    assert (view.path, view.weights, view.config) == (checkpoint.path, checkpoint.weights, {"heads": 1})
    assert view.numbers("blocks") == 2
    assert view.bytes == 36
    assert repr(view) == f"Checkpoint('{tmp_path / 'a.pt'}': 2 tensors, 36 bytes)"
    with pytest.raises(InputError, match=r"a\.pt: tensors 'layers\.0\.weight' and 'layers\.1\.weight' are both 'x'$"):
        checkpoint.renamed(lambda name: "x")

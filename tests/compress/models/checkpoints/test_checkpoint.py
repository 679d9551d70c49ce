"""Bad checkpoint files: each is named with what is wrong, and nothing in them is executed."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import Trap

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import read_state
from compress.models.checkpoints.containers import PICKLES

STATE = {"embedding.weight": torch.arange(6.0).reshape(2, 3), "norm.weight": torch.ones(3)}


def complaint(path: Path) -> str:
    """What `read_state` says of a file, without its path."""
    with pytest.raises(InputError) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value).removeprefix(f"{path}: ")[:60]
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".safetensors", *PICKLES])
def test_tensors_are_read_from_every_known_kind_of_file(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    state = read_state(path)
    assert list(state) == list(STATE)
    for name, value in STATE.items():
        assert torch.equal(state[name], value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_missing_file_and_a_folder_are_no_checkpoint_files(tmp_path, suffix):
    assert complaint(tmp_path / f"none{suffix}") == "there is no such checkpoint file"
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    assert complaint(folder) == "there is no such checkpoint file"


def test_an_unknown_suffix_is_refused_with_those_known(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"")
    assert complaint(path) == "unknown kind of checkpoint; known: .safetensors, .pt, .pth, .bin, .ckpt"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_safetensors_file_is_refused(tmp_path, share):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert complaint(path).startswith("not a readable safetensors file, truncated or damaged (")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_pickle_is_refused(tmp_path, share, zipped):
    path = tmp_path / "model.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    said = complaint(path)
    assert said.startswith(
        ("not a readable checkpoint, truncated or damaged (", "holds more than tensors, or is damaged")
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_bytes_are_damaged_the_answer_is_one_line(tmp_path, zipped):
    path, generator = tmp_path / "model.pt", random.Random(0)
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[generator.randrange(min(600, len(damaged)))] = generator.randrange(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_state(path)
            except InputError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_executed(tmp_path, zipped):
    sprung, path = tmp_path / "sprung", tmp_path / "model.pt"
    torch.save({**STATE, "extra": Trap(sprung)}, path, _use_new_zipfile_serialization=zipped)
    assert complaint(path) == (
        f"holds 'getattr'{' behind ' + repr('extra') if zipped else ''}, which is not known to hold data only; "
        "nothing in it was executed; save a plain state dict (name to tensor) or safetensors"
    )
    assert not sprung.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert complaint(path).startswith("holds 'torch.nn.modules.linear.Linear', which is not known to hold data only; ")


@pytest.mark.parametrize(
    ("content", "kind"),
    [([torch.ones(1)], "list"), ({"model": STATE}, "dict"), ({0: torch.ones(1)}, "dict"), (torch.ones(2), "Tensor")],
)
def test_a_pickle_of_something_else_is_no_state_dict(tmp_path, content, kind):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    assert complaint(path).startswith(f"holds {kind}, not a plain state dict of tensors by name")

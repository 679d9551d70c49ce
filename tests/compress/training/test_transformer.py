"""Training from a recipe: a checkpoint that the family `reference` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from calibration.tokens import TokenSet
from compress.core.settings import InputError
from compress.models import families
from compress.training.transformer import TrainRecipe, train

RECIPE = """\
name: mini
model: {grid: [8, 8], vocabulary: 17, classes: 10, width: 16, layers: 1, heads: 2, head_width: 8, ffn: 16}
train: {steps: 4, batch: 8, warmup: 2, validate_every: 2, threads: 1}
"""


@pytest.fixture
def path(tmp_path: Path, tiny_tokens: TokenSet) -> Path:
    """A recipe of four steps on 96 pictures."""
    tiny_tokens.save(tmp_path / "t.npz")
    (tmp_path / "train.yaml").write_text(RECIPE + f"tokens: {tmp_path}/t.npz\n")
    return tmp_path / "train.yaml"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_training_writes_a_checkpoint_and_its_record(path: Path, tmp_path: Path) -> None:
    result = train(TrainRecipe.load(path), tmp_path / "out")
    model = families.load(families.Source(str(tmp_path / "out")), "here")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["parameters"] == model.parameters()
    assert record["held_out_nll"] == result["held_out_nll"]
    assert [row["step"] for row in record["log"]] == [2, 4]
    assert record["recipe"]["train"]["learning_rate"] == 1e-3
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_an_interrupted_training_ends_with_the_same_bytes(path: Path, tmp_path: Path) -> None:
    recipe = TrainRecipe.load(path)
    train(recipe, tmp_path / "whole")

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", stop)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["state"]["step"] == 3
    train(recipe, tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 4", "steps: 0", r"train\.yaml: train\.steps: 0 is out of range; it must be between 1"),
        ("width: 16", "widht: 16", r"train\.yaml: model: unknown key 'widht'; did you mean 'width'\?"),
        ("[8, 8]", "[4, 4]", "pictures of 64 tokens up to 16, classes up to 9; the model reads 16 tokens below 17"),
        ("[8, 8]", "[4096, 4096]", r"train\.yaml: model: grid \(4096, 4096\) has more than 65536 tokens"),
        (
            "16, layers: 1",
            "65536, layers: 9999",
            r"model: width 65536, .*: about .* parameters; at most 2e\+09 are trained here",
        ),
        ("classes: 10", "classes: 3", "classes up to 9; the model reads 64 tokens below 17, and classes up to 3"),
        ("batch: 8", "batch: 97", "97 train pictures are asked for, but only 96 exist"),
        ("t.npz", "u.npz", r"mini: tokens: '.*u\.npz' is neither a file nor 'digits'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    path: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        train(TrainRecipe.load(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_one_line(path: Path) -> None:
    with pytest.raises(InputError, match=r"^output .*: cannot be written \(Not a directory\); choose another with -o"):
        train(TrainRecipe.load(path), path / "out")


# How each library says that the disk is full; safetensors' is no OSError.
FULL = [
    OSError(28, "No space left on device"),
    OSError(122, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
@pytest.mark.parametrize("place", ["safetensors", "torch"])
def test_a_full_disk_is_one_line_and_the_training_goes_on_later(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    recipe, out = TrainRecipe.load(path), tmp_path / "out"

    def full(*arguments: object) -> None:
        raise error

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        if step >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out, stop)
    with monkeypatch.context() as patch:
        if place == "torch":  # the disk is full at an interruption
            patch.setattr(torch, "save", full)
        else:
            patch.setattr("compress.models.families.reference.save_file", full)
        with pytest.raises(InputError, match=r"out: the disk is full; what was finished is kept, free space and run"):
            train(recipe, out, stop if place == "torch" else None)
    assert sorted(each.name for each in out.iterdir()) == ["checkpoint.pt"]
    train(recipe, out)
    train(recipe, tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")
    assert sorted(each.name for each in out.iterdir()) == ["config.json", "model.safetensors", "training.json"]

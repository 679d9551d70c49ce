"""How long the trainings of a folder take here, from a few of their steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compress.core.settings import parse
from compress.drafting import training_pace
from compress.drafting.training_pace import TrainingPace, foresee, pace_of, reading, seconds_of_a_step
from compress.training.tokenizer import TokenizerRecipe
from compress.training.transformer import TrainRecipe

AUTOENCODER = {
    "codes": 16, "code_width": 4, "latent_width": 8, "encoder_channels": [8, 8, 8], "decoder_channels": [8, 8, 8],
    "encoder_blocks": 1, "decoder_blocks": 1, "middle_attention": False, "norm_groups": 4,
}  # fmt: skip
MODEL = {
    "grid": [4, 4], "vocabulary": 16, "classes": 2, "width": 16, "layers": 1, "heads": 2, "head_width": 8, "ffn": 16,
    "tokenizer": "runs/none",
}  # fmt: skip


def recipes(folder: Path, **train: Any) -> tuple[TokenizerRecipe, TrainRecipe]:
    """Two small trainings."""
    own = {"steps": 500, "crop": 16, "validate_every": 250, "threads": 1}
    tokenizer = {"name": "t", "tokenizer": AUTOENCODER, "train": own | train, "pictures": str(folder), "side": 16}
    model = {"name": "m", "pictures": str(folder), "model": MODEL, "train": {"steps": 100, "threads": 1}}
    return parse(TokenizerRecipe, tokenizer, "t"), parse(TrainRecipe, model, "m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(12):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_steps_validations_and_the_measuring_at_the_end_are_counted() -> None:
    pace = TrainingPace(tokenizer_step=1.0, model_step=2.0, encoded=0.1, decoded=0.2, scored=0.3, read=0.01)
    first, second = foresee(*recipes(Path("x")), 100, pace)
    # 5 validation and 10 held-out pictures; 2,000 crops for the use of codes, and 128 for their clusters.
    assert first == pytest.approx(500 * 1.0 + (2 * 5 + 10) * (0.1 + 0.2) + 2128 * 0.1 + 100 * 0.01)
    assert second == pytest.approx(100 * 2.0 + (2 * 5 + 10) * 0.3 + (5 + 10) * 0.1 + 100 * 0.01)
    again, _ = foresee(*recipes(Path("x"), steps=1000), 100, pace)
    assert again > first + 499


def test_a_look_times_every_part_and_leaves_threads_and_random_numbers_as_they_were(folder: Path) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    pace = pace_of(*recipes(folder))
    assert all(seconds > 0 for seconds in vars(pace).values()), pace
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_whole_batch_is_on_the_line_through_two_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = [0.0], []
    monkeypatch.setattr(training_pace, "CLOCK", lambda: clock[0])
    layer = nn.Linear(1, 1)

    def loss(pictures: int) -> torch.Tensor:
        seen.append(pictures)
        clock[0] += 1 + 0.5 * pictures
        return layer(torch.ones(1, 1)).sum()

    assert seconds_of_a_step(layer, loss, batch=32, ema=0.9) == pytest.approx(1 + 0.5 * 32)
    assert set(seen) == {2, 6}
    assert len(seen) == 4, "one step warms up, and steps that take long are not repeated"
    assert seconds_of_a_step(layer, loss, batch=1, ema=0.9) == pytest.approx(1.5)


def test_some_of_the_pictures_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def note(path: Path, *rest: Any) -> np.ndarray[Any, Any]:
        read.append(path)
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(training_pace, "read_picture", note)
    assert reading(folder, 16, recipes(folder)[0].reading) >= 0
    assert 6 == len(read) == len(set(read))

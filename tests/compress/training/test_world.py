"""Several processes train the same as one: what they agree on, and each kind of training in two processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from small_pictures import SIDE, draw_pictures
from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.launched import SaidElsewhereError
from compress.core.settings import InputError
from compress.models.tokenizer.vq import VqConfig
from compress.training import tokenizer as of_tokenizer
from compress.training.tokenizer import TokenizerRecipe, TokenizerTraining, TokenizerTrainSettings, train_tokenizer
from compress.training.transformer import TrainRecipe, train
from compress.training.world import ALONE, World

MODEL = "{grid: [8, 8], vocabulary: 17, classes: 10, width: 16, layers: 2, heads: 2, head_width: 8, ffn: 16}"
TRANSFORMER = f"""\
name: mini
model: {MODEL}
train: {{steps: 12, batch: 8, warmup: 2, validate_every: 2, learning_rate: 0.01, threads: 1, dropout: 0.2}}
augment: {{shift: 1.0}}
"""
TOKENIZER = """\
name: mini
tokenizer: {codes: 32, code_width: 4, latent_width: 8, encoder_channels: [4, 8], decoder_channels: [4, 8],
  encoder_blocks: 1, decoder_blocks: 1, middle_attention: false, norm_groups: 2}
train: {steps: 16, batch: 16, crop: 16, whole: 0, continuous: 3, warmup: 1, validate_every: 2, threads: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_tokens: TokenSet) -> TrainRecipe:
    tiny_tokens.save(tmp_path / "t.npz")
    (tmp_path / "train.yaml").write_text(f"{TRANSFORMER}tokens: {tmp_path}/t.npz\n")
    return TrainRecipe.load(tmp_path / "train.yaml")


@pytest.fixture
def of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenizerRecipe:
    """A recipe of a tokenizer, and little to measure."""
    monkeypatch.setattr(of_tokenizer, "USAGE_CROPS", 4)
    monkeypatch.setattr(of_tokenizer, "VALIDATION_CROPS", 3)
    monkeypatch.setattr(of_tokenizer, "CLUSTER_CROPS", 16)
    monkeypatch.setattr(of_tokenizer, "RESTART_EVERY", 2)
    folder = draw_pictures(tmp_path / "pictures")
    (tmp_path / "t.yaml").write_text(f"{TOKENIZER}pictures: {folder}\nside: {SIDE}\n")
    return TokenizerRecipe.load(tmp_path / "t.yaml")


def assert_same_training(one: Path, other: Path, tolerance: float = 1e-3) -> None:
    """Equal weights, as far as half precision says, and equal losses at every validation."""
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name].float(), weight.float(), rtol=2e-3, atol=tolerance, msg=name)
    records = [json.loads((folder / "training.json").read_text()) for folder in (one, other)]
    logs = [record["log"] for record in records]
    assert len(logs[0]) == len(logs[1])
    for own, theirs in zip(*logs, strict=True):
        assert own == pytest.approx(theirs, rel=1e-4), own["step"]


def test_rows_of_all_processes_are_the_batch() -> None:
    rows = [World(rank, 3).rows(12) for rank in range(3)]
    assert [list(range(12))[each] for each in rows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert ALONE.rows(5) == slice(0, 5)
    with pytest.raises(InputError, match=r"^t: 8 cannot be shared equally by 3 processes; use a multiple of 3$"):
        World(size=3).check(8, "t")


def test_processes_know_sums_rows_and_what_the_first_one_made(tmp_path: Path) -> None:
    def work(world: World) -> tuple[object, ...]:
        rows = world.rows_of_all(np.full((1, 2), world.rank))
        return world.sum_of(world.rank + 0.5), rows.tolist(), world.from_first(lambda: f"made by {world.rank}")

    assert on_ranks(work, tmp_path) == [(2.0, [[0, 0], [1, 1]], "made by 0")] * 2


def test_what_fails_in_any_process_ends_all_and_is_said_once(tmp_path: Path) -> None:
    def work(world: World) -> str:
        try:
            with world.agreed():
                if world.rank > 0:
                    raise InputError(f"wrong in {world.rank}")
        except (InputError, SaidElsewhereError) as error:
            return f"{type(error).__name__} {error}"
        return "went on"

    assert on_ranks(work, tmp_path, size=3) == ["SaidElsewhereError ", "InputError wrong in 1", "SaidElsewhereError "]


@pytest.mark.parametrize("order", ["causal", "masked"])
def test_two_processes_train_the_transformer_of_one(recipe: TrainRecipe, tmp_path: Path, order: str) -> None:
    recipe = replace(recipe, model=replace(recipe.model, order=order))
    train(recipe, tmp_path / "one")
    results = on_ranks(lambda world: train(recipe, tmp_path / "two", world=world), tmp_path)
    assert results[0] == results[1]
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_a_model_that_is_split_over_two_processes_trains_as_one(recipe: TrainRecipe, tmp_path: Path) -> None:
    train(recipe, tmp_path / "one")
    split = replace(recipe, train=replace(recipe.train, sharded=True))
    on_ranks(lambda world: train(split, tmp_path / "two", world=world), tmp_path)
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_two_processes_train_the_tokenizer_of_one(of_pictures: TokenizerRecipe, tmp_path: Path) -> None:
    train_tokenizer(of_pictures, tmp_path / "one")
    results = on_ranks(lambda world: train_tokenizer(of_pictures, tmp_path / "two", world=world), tmp_path)
    assert results[0] == results[1]
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_codes_of_two_processes_move_and_revive_as_those_of_one(tmp_path: Path) -> None:
    config = VqConfig(
        codes=8, code_width=2, latent_width=4, encoder_channels=(4,), decoder_channels=(4,), norm_groups=4
    )
    seen = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))

    def moved(world: World) -> tuple[int, dict[str, Tensor]]:
        torch.manual_seed(0)
        training = TokenizerTraining(config, TokenizerTrainSettings(steps=9), world)
        training.counts[:5] = 0.01  # five are dead
        training.seen = seen[world.rows(len(seen))]
        torch.manual_seed(2)
        return training.move_codes(restart=True), training.state_dict()

    dead, alone = moved(ALONE)
    assert dead == 5
    for count, state in on_ranks(moved, tmp_path):
        assert count == 5
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, msg=name)

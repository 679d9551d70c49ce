"""Training a tokenizer: it learns, resumes to the same bytes, and keeps its codes alive."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_pictures import SIDE, draw_pictures

from calibration import emoji
from compress.cli import main
from compress.core.settings import InputError, parse
from compress.data.tokens import open_source
from compress.models import families, zoo
from compress.models.tokenizer import tokenizer_folder
from compress.models.tokenizer.vq import VqConfig
from compress.training import tokenizer as module
from compress.training.pictures import PictureSource, open_pictures
from compress.training.tokenizer import (
    TokenizerRecipe,
    TokenizerTraining,
    TokenizerTrainSettings,
    clusters,
    psnr,
    reconstruction_loss,
    squared_errors,
    train_tokenizer,
)
from compress.training.transformer import TrainRecipe, mean_nll

RECIPE = f"""\
name: mini
pictures: own
side: {SIDE}
tokenizer: {{codes: 16, code_width: 4, latent_width: 8, encoder_channels: [4, 8], decoder_channels: [4, 8],
  encoder_blocks: 1, decoder_blocks: 1, middle_attention: false, norm_groups: 4}}
train: {{steps: 6, batch: 8, crop: 16, whole: 0.2, continuous: 2, warmup: 1, validate_every: 3, threads: 1}}
"""
CONFIG = VqConfig(codes=8, code_width=2, latent_width=4, encoder_channels=(4,), decoder_channels=(4,), norm_groups=4)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of six steps, and little to measure."""
    monkeypatch.setattr(module, "USAGE_CROPS", 4)
    monkeypatch.setattr(module, "VALIDATION_CROPS", 2)
    monkeypatch.setattr(module, "CLUSTER_CROPS", 16)
    folder = draw_pictures(tmp_path / "pictures")
    (tmp_path / "t.yaml").write_text(RECIPE.replace("own", str(folder)))
    return tmp_path / "t.yaml"


def source_of(recipe: TokenizerRecipe) -> PictureSource:
    """What a recipe trains on."""
    return open_pictures(recipe.pictures, torch.device("cpu"), "here", recipe.side)


def refusal(folder: Path, before: str, after: str) -> str:
    """What is said of the recipe with some text replaced."""
    assert before in RECIPE
    (folder / "wrong.yaml").write_text(RECIPE.replace(before, after))
    with pytest.raises(InputError) as caught:
        TokenizerRecipe.load(folder / "wrong.yaml")
    return str(caught.value).removeprefix(f"{folder}/wrong.yaml: ")


def test_a_training_writes_a_tokenizer_and_its_record(path: Path, tmp_path: Path) -> None:
    recipe = TokenizerRecipe.load(path)
    result = train_tokenizer(recipe, tmp_path / "out")
    tokenizer = tokenizer_folder.load(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["psnr"] == result["psnr"]
    assert [row["step"] for row in record["log"]] == [3, 6]
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    images = source_of(recipe).part("held_out")[0]
    assert psnr(squared_errors(tokenizer, images).mean()) == pytest.approx(result["psnr"])
    assert tokenizer.vocabulary == 16
    assert tokenizer.grid == (16, 16)


def test_an_interrupted_training_ends_with_the_same_bytes(path: Path, tmp_path: Path) -> None:
    recipe = TokenizerRecipe.load(path)
    train_tokenizer(recipe, tmp_path / "whole")

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(recipe, tmp_path / "cut", stop)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["state"]["step"] == 4
    train_tokenizer(recipe, tmp_path / "cut")
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_the_loss_falls(path: Path, tmp_path: Path) -> None:
    recipe = TokenizerRecipe.load(path)
    training = TokenizerTraining(recipe.tokenizer, recipe.train)
    images = torch.from_numpy(source_of(recipe).part("train", 4)[0])
    optimizer = torch.optim.Adam([each for each in training.parameters() if each.requires_grad], lr=0.01)
    training.loss(images, coded=False)
    training.place_codes(training.seen, len(training.seen))
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = training.loss(images, coded=True)
        value.backward()
        optimizer.step()
        training.move_codes(restart=False)
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


def test_codes_that_nobody_chooses_are_restarted_at_latents() -> None:
    training = TokenizerTraining(CONFIG, TokenizerTrainSettings(steps=1, code_decay=0.5))
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    weight = training.autoencoder.embedding.weight
    with torch.no_grad():
        weight.copy_(torch.cat([points, torch.full((4, 2), 50.0)]))  # the last four are far from every latent
    training.counts.fill_(0.5)
    training.sums.copy_(weight * 0.5)
    training.seen = points
    for _ in range(8):
        assert training.move_codes(restart=False) == 0
    assert training.move_codes(restart=True) == 4
    distance = torch.cdist(weight, points).min(dim=1).values
    assert distance.max() < 1e-5


def test_a_moving_average_moves_a_code_by_hand_worked_numbers() -> None:
    training = TokenizerTraining(CONFIG, TokenizerTrainSettings(steps=1, code_decay=0.5))
    weight = training.autoencoder.embedding.weight
    with torch.no_grad():
        weight.copy_(torch.arange(8.0)[:, None].expand(8, 2) * 10)
    training.counts.fill_(2.0)
    training.sums.copy_(weight * 2)
    training.seen = torch.tensor([[10.0, 12.0], [12.0, 10.0]])  # both choose code 1
    training.move_codes(restart=False)
    # count (2 + 2) / 2 = 2; sum ((20, 20) + (22, 22)) / 2 = (21, 21); another code halves count and sum alike.
    assert weight[1].tolist() == [10.5, 10.5]
    assert weight[3].tolist() == [30.0, 30.0]
    assert training.counts[3] == 1.0


def test_clusters_find_separate_groups() -> None:
    points = torch.tensor([[0.0], [0.2], [10.0], [10.2], [20.0], [20.2]])
    assert clusters(points, 3, 5).flatten().tolist() == pytest.approx([0.1, 10.1, 20.1], abs=1e-5)


def test_the_reconstruction_loss_is_the_weighted_sum_of_its_terms() -> None:
    wanted = torch.zeros(1, 1, 2, 2)
    made = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    settings = TokenizerTrainSettings(steps=1, absolute=1.0, squared=4.0, gradient=0.5)
    # 1/4 + 4 * 1/4 + 0.5 * (1/2 + 1/2): one of two differences is 1 along each direction.
    assert reconstruction_loss(made, wanted, settings).item() == pytest.approx(1.75)


def test_straight_through_gives_the_encoder_a_gradient_and_the_codes_none() -> None:
    training = TokenizerTraining(CONFIG, TokenizerTrainSettings(steps=1, commitment=0.0))
    training.loss(torch.full((1, 4, 4, 3), 200, dtype=torch.uint8), coded=True).backward()
    assert training.autoencoder.encoder.stem.weight.grad.abs().sum() > 0
    assert training.autoencoder.embedding.weight.grad is None


def test_psnr_is_that_of_its_definition() -> None:
    assert psnr(255.0**2) == 0
    assert psnr(255.0**2 / 1000) == pytest.approx(30)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    plain_only = "tokenizer: only an encoder with one plain codebook is trained here"
    assert refusal(tmp_path, "norm_groups: 4", "norm_groups: 4, normalised_codes: true") == plain_only
    assert refusal(tmp_path, "pictures: own\n", "") == (
        "'pictures' is missing; it is needed (what to train on: 'emoji', or a folder of pictures)"
    )
    assert refusal(tmp_path, "codes: 16", "codes: 0").startswith("tokenizer: codes 0: must be at least 1")


@pytest.mark.parametrize("crop", [17, 256])
def test_a_crop_that_is_not_cut_into_tokens_is_refused(path: Path, tmp_path: Path, crop: int) -> None:
    path.write_text(path.read_text().replace("crop: 16", f"crop: {crop}"))
    with pytest.raises(InputError, match=rf"^mini: train\.crop: {crop} must be a multiple of the 2 pixels of a token"):
        train_tokenizer(TokenizerRecipe.load(path), tmp_path / "out")


def test_an_output_that_cannot_be_written_is_said(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot be written \(Not a directory\); choose another with -o"):
        train_tokenizer(TokenizerRecipe.load(path), tmp_path / "file" / "out")


def test_a_training_that_diverged_is_said(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", lambda tokenizer, source, seed: {"psnr": float("nan")})
    with pytest.raises(InputError, match=r"^mini: training diverged .*; use a smaller train.learning_rate$"):
        train_tokenizer(TokenizerRecipe.load(path), tmp_path / "out")


def test_a_folder_that_is_no_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a readable tokenizer"):
        tokenizer_folder.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((zoo.ROOT / "emoji-tokenizer" / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match=r"config\.json: not a tokenizer's config of format 1$"):
        tokenizer_folder.load(tmp_path)


def test_the_command_trains_what_the_recipe_describes(path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train", str(path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    said = f"out: held-out PSNR {record['psnr']:.2f} dB, {record['used_codes_share']:.1%} of the codes are used\n"
    assert result.stdout.endswith(said)


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text()
    described = page.split("\n## Tokenizer recipes\n")[1].split("\n## ")[0]
    for field in (*fields(TokenizerRecipe), *fields(TokenizerTrainSettings)):
        assert f"| `{field.name}` |" in described, field.name
        assert field.metadata["doc"] in described


def test_the_shipped_tokenizer_makes_the_tokens_of_a_picture_that_it_decoded() -> None:
    tokenizer = tokenizer_folder.load(zoo.ROOT / "emoji-tokenizer")
    assert (tokenizer.length, tokenizer.vocabulary, tokenizer.picture) == (256, 1024, (64, 64, 3))
    decoded = tokenizer.decode(open_source("emoji", "here").part("held_out", 20).tokens)
    assert psnr(squared_errors(tokenizer, decoded).mean()) >= 26, "as near as pictures of emoji are"


@pytest.mark.slow
@pytest.mark.skipif(not (emoji.FONT.is_file() and emoji.LIST.is_file()), reason=f"{emoji.PACKAGES} are not installed")
def test_the_shipped_tokenizer_keeps_held_out_emoji_as_its_record_says() -> None:
    folder = zoo.ROOT / "emoji-tokenizer"
    images = emoji.emoji_pictures("held_out", 100)[0]
    emoji.pictures.cache_clear()
    record = json.loads((folder / "training.json").read_text())
    # A hundred are easier or harder than all of them by a little.
    assert psnr(squared_errors(tokenizer_folder.load(folder), images).mean()) == pytest.approx(record["psnr"], abs=2)


def test_a_tokenizer_alone_is_no_model_of_the_zoo() -> None:
    assert "emoji-tokenizer" not in zoo.names()


def test_the_shipped_emoji_tokenizer_and_models_are_what_their_records_say() -> None:
    recipes = Path(__file__).parents[3] / "recipes"
    for name, form in (("emoji-tokenizer", TokenizerRecipe), ("emoji", TrainRecipe), ("emoji-masked", TrainRecipe)):
        record = json.loads((zoo.ROOT / name / "training.json").read_text())
        weights = (zoo.ROOT / name / "model.safetensors").read_bytes()
        assert record["weights_sha256"] == hashlib.sha256(weights).hexdigest()
        assert parse(form, record["recipe"], "record") == form.load(recipes / f"train-{name}.yaml")
    record = json.loads((zoo.ROOT / "emoji-tokenizer" / "training.json").read_text())
    assert record["psnr"] >= 26
    assert record["used_codes_share"] >= 0.9
    model = families.load(families.Source("emoji"), "here")
    assert len(record["classes"]) == model.shape.classes
    tokens = open_source("emoji", "here").part("held_out")
    assert mean_nll(model.transformer, tokens.take(np.arange(2)), model.shape) < 4

"""The command `init`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import compress
from compress.cli import main
from compress.core.settings import InputError
from compress.drafting import training_pace
from compress.drafting.training_pace import TrainingPace
from compress.recipe import recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_shipped_model_gets_a_recipe_that_is_not_overwritten(here: Path) -> None:
    first = CliRunner().invoke(main, ["init", "digits"])
    assert first.exit_code == 0, first.output
    assert "digits-balanced.yaml: written" in first.output
    assert "compress run digits-balanced.yaml" in first.output
    made = recipe.load(here / "digits-balanced.yaml")
    assert (made.model.checkpoint, made.tokens.source) == ("digits", "digits")
    again = CliRunner().invoke(main, ["init", "digits"])
    assert again.exit_code == 2
    assert "digits-balanced.yaml: is there already; name another file with -o, or give --force" in again.output
    assert CliRunner().invoke(main, ["init", "digits", "--force"]).exit_code == 0


def test_a_recipe_is_printed_alone(here: Path) -> None:
    result = CliRunner().invoke(main, ["init", "emoji", "--goal", "lossless", "-o", "-"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert result.stdout.endswith("\n")
    assert "next:" not in result.stdout
    assert "next:" in result.stderr
    assert not list(here.iterdir())


def test_what_was_found_and_comes_next_is_said_as_json(here: Path) -> None:
    result = CliRunner().invoke(main, ["init", "digits", "--json"])
    said = json.loads(result.stdout)
    assert said["recipes"] == ["digits-balanced.yaml"]
    assert "compress run digits-balanced.yaml" in said["next"]
    assert "6.44 M parameters" in said["found"][0]
    refused = CliRunner().invoke(main, ["init", "digits", "--json", "-o", "-"])
    assert "--json: the recipe itself goes to standard output; name a file with -o" in refused.output


def test_a_folder_of_pictures_gets_two_training_recipes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = TrainingPace(tokenizer_step=0.5, model_step=1.0, encoded=0.01, decoded=0.01, scored=0.01, read=0.0)
    monkeypatch.setattr(training_pace, "pace_of", lambda *recipes: pace)
    (here / "mine").mkdir()
    for index in range(12):
        Image.new("RGB", (40, 30), (index, 0, 0)).save(here / "mine" / f"{index}.png")
    result = CliRunner().invoke(main, ["init", "mine"])
    assert result.exit_code == 0, result.output
    assert (here / "mine-tokenizer.yaml").is_file()
    assert (here / "mine-model.yaml").is_file()
    assert "compress init runs/mine --tokens mine" in result.output
    # 2,000 steps of 0.5 s, and some 2,140 pictures of 0.01 s, give or take a factor of 1.6.
    assert "training the tokenizer: between 11 minutes and 27 minutes on this machine's processor" in result.output
    assert "training the transformer: between 16 minutes and 40 minutes" in result.output
    refused = CliRunner().invoke(main, ["init", "mine", "--tokens", "digits", "--force"])
    assert "--tokens: goes with a checkpoint; mine is a folder of pictures" in refused.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "holds neither a checkpoint nor pictures; name one, for example  compress init emoji"),
        (("nothing.pt",), "is neither a file or folder nor a shipped model"),
        (("emoji-tokenizer",), "give the transformer"),
        (("digits", "--tokens", "drawn"), "`compress verify` takes drawn"),
        (("digits", "--tokens", "nowhere"), "is no TokenSet (.npz), no folder of pictures"),
        (("digits", "--tokens", "emoji"), "digits reads 64"),
    ],
)
def test_what_no_recipe_can_be_made_of_is_one_line(words: tuple[str, ...], said: str, here: Path) -> None:
    result = CliRunner().invoke(main, ["init", *words])
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.splitlines()) == 1


def test_python_gets_the_same_recipe_and_writes_it_when_it_wants(here: Path) -> None:
    made = compress.init("digits", goal="lossless", output="mine.yaml")
    assert not list(here.iterdir())
    assert "compress run mine.yaml" in made.commands
    made.write()
    assert recipe.load(here / "mine.yaml").model.checkpoint == "digits"
    with pytest.raises(InputError, match=r"mine\.yaml: is there already"):
        made.write()
    made.write(force=True)
    with pytest.raises(InputError, match="goal: 'fast' is none; did you mean 'fastest'"):
        compress.init("digits", goal="fast")

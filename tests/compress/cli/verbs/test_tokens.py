"""The command `tokens`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from PIL import Image

from calibration.tokens import TokenSet


def test_tokens_turns_a_folder_into_a_token_set(
    tmp_path: Path, checkpoint: Path, invoke: Callable[..., Result]
) -> None:
    (tmp_path / "pictures" / "3").mkdir(parents=True)
    for index in range(10):
        Image.new("L", (8, 8), 25 * index).save(tmp_path / "pictures" / "3" / f"{index}.png")
    result = invoke("tokens", tmp_path / "pictures", "-o", tmp_path / "t.npz", "--model", checkpoint)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path}/t.npz: 10 pictures of 64 tokens (8 train, 0 validation, 2 held-out)\n"
    assert len(TokenSet.load(tmp_path / "t.npz")) == 10


def test_tokens_wants_a_name_that_numpy_keeps(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused("tokens", tmp_path, "-o", tmp_path / "t") == f"--output: '{tmp_path}/t' must end in .npz"

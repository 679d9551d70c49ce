"""The command `train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result


def test_train_says_what_it_reached(tmp_path: Path, tiny_tokens, invoke: Callable[..., Result]) -> None:
    tiny_tokens.save(tmp_path / "t.npz")
    recipe = tmp_path / "train.yaml"
    recipe.write_text(
        f"name: mini\ntokens: {tmp_path}/t.npz\n"
        "model: {grid: [8, 8], vocabulary: 17, classes: 10, width: 16, layers: 1, heads: 2, head_width: 8, ffn: 16}\n"
        "train: {steps: 2, batch: 8, validate_every: 2, threads: 1}\n"
    )
    result = invoke("train", recipe, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert result.stdout == f"{tmp_path}/out: held-out NLL {record['held_out_nll']:.4f} nats per token\n"
    again = invoke("train", recipe, "-o", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["held_out_nll"] == record["held_out_nll"]

"""The command `sensitivity`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from compress.measure.speed import kernels
from compress.measure.statistics import Estimate


@pytest.fixture(autouse=True)
def _timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products take no time to time."""
    monkeypatch.setattr(kernels, "milliseconds", lambda wanted, threads: dict.fromkeys(wanted, Estimate(1.0, 0.9, 1.1)))


@pytest.fixture
def small(checkpoint: Path, tmp_path: Path) -> Path:
    """A recipe of few pictures."""
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model: {{checkpoint: {checkpoint}}}\ntokens: {{source: digits, calibration: 4}}\nbench: {{threads: 1}}\n"
        "engines: {cpu: [export: {target: onnxruntime}]}\n"
    )
    return path


def test_it_prints_tables_and_writes_csv_and_a_page(small: Path, invoke: Callable[..., Result], tmp_path: Path) -> None:
    table, page = tmp_path / "layers.csv", tmp_path / "layers.html"
    given = ("sensitivity", small, "--formats", "int8", "--pictures", 2, "--store", tmp_path / "store")
    result = invoke(*given, "-o", table, "--page", page)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "quantized alone: KL x 1000" in words
    assert "25% of heads" in words
    rows = [*csv.DictReader(table.open())]
    assert len(rows) == 15 + 4
    assert "what each layer costs and saves" in page.read_text()
    found = json.loads(invoke(*given, "--json").stdout)
    assert [each["kl"] for each in found["layers"]] == [float(each["kl"]) for each in rows], "it was remembered"
    assert found["pictures"] == 2


def test_formats_none_and_prune_0_leave_one_half_out(
    small: Path, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    given = ("sensitivity", small, "--pictures", 2, "--store", tmp_path / "store", "--json")
    pruned = json.loads(invoke(*given, "--formats", "none").stdout)
    assert {row["kind"] for row in pruned["layers"]} == {"prune"}
    quantized = json.loads(invoke(*given, "--formats", "int8", "--prune", 0).stdout)
    assert {row["kind"] for row in quantized["layers"]} == {"quantize"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--formats", "int7"), "--formats: 'int7' is no format"),
        (("--formats", "none", "--prune", "0"), "nothing is asked for"),
        (("--model", "no-such-model"), "no-such-model"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(small: Path, refused: Callable[..., str], options, line: str) -> None:
    assert line in refused("sensitivity", small, *options)

"""The benchmark runs on a tiny shape, names what is missing, and writes the JSON that RESULTS.md is made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = {
    "stack", "shape", "batch", "ms_per_token", "s_per_image", "peak_mib", "file_mib", "ratio_eager", "ratio_best_peer",
    "roofline_share",
}  # fmt: skip


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A benchmark in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_tiny_shape_is_timed_and_its_rows_become_a_page(tmp_path):
    found, page = tmp_path / "tiny.json", tmp_path / "RESULTS.md"
    inside = "int4 g128, int8 cache, guidance inside, small int8 decoder"
    chosen = f"torch eager fp32,int4 g128,optimum fp32,{inside}"
    done = run("decode.py", "--shape", "tiny", "--batch", "1,2", "--stacks", chosen, "--json", str(found), "--pictures")
    assert done.returncode == 0, done.stderr
    assert "optimum fp32: left out" in done.stderr
    value = json.loads(found.read_text())
    assert value["machine"]["cpu"]
    assert value["machine"]["roofline"]["read_gb_per_s"] > 0
    assert all(set(row) == ROW for row in value["rows"])
    rows = {(row["stack"], row["batch"]): row for row in value["rows"]}
    ours = rows["ours int4 g128", 1]
    assert rows["torch eager fp32", 1]["ratio_eager"] == 1
    assert ours["ratio_eager"] > 1
    assert ours["ms_per_token"] * 16 == 1e3 * ours["s_per_image"]
    assert 0 < ours["roofline_share"] < 1
    assert rows["ours int4 g128, label to pixels", 2]["s_per_image"] > 0
    assert rows[f"ours {inside}, label to pixels", 2]["s_per_image"] > 0
    assert run("results.py", str(found), "-o", str(page)).returncode == 0
    assert "### tiny, 2 rows a step" in page.read_text()


@pytest.mark.slow
def test_the_cost_of_an_export_is_measured_in_a_process_of_its_own(tmp_path):
    found = tmp_path / "cost.json"
    done = run("export_cost.py", "--shape", "tiny", "--ranges", "absmax", "--json", str(found))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(found.read_text())["rows"]
    assert row["parameters"] == 154496
    assert 0 < row["quantize_s"] < row["total_s"]
    assert row["peak_mib"] > 0


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--stacks", "int4 g128,int3", "--stacks: 'int3' is none of torch eager fp32; "),
        ("--stack", "int3, int8 cache", "--stacks: 'int3, int8 cache' is none of torch eager fp32; "),
        ("--shape", "tiny,huge", "--shape: 'huge' is none of "),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_built(monkeypatch, capsys, option, text, said):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import decode

    monkeypatch.setattr(decode.roofline, "measure", lambda threads: pytest.fail("measured"))
    with pytest.raises(SystemExit) as end:
        decode.main([option, text])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_stack_is_chosen_by_its_name_commas_and_all(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import decode

    def chosen(*arguments: str) -> list[str]:
        return decode.checked(decode.options(), arguments).stacks

    one, other = "int4 g128, int8 cache", "torch eager fp32"
    assert one in decode.KNOWN
    assert chosen("--stack", one, "--stack", other) == [one, other]
    assert chosen("--stacks", f"{one}; {other}") == [one, other]
    assert chosen("--stacks", f"{one},{other},int4 g128") == [one, other, "int4 g128"]
    assert chosen("--stacks", "int4 g128, int8 cache, int8 decoder") == ["int4 g128, int8 cache, int8 decoder"]
    assert chosen("--stacks", f"{other},int4 g128,fp32, hoisted") == [other, "int4 g128", "fp32, hoisted"]

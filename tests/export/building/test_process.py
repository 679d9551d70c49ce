"""Builds in a process of their own: what comes back, and one line where the builder crashes, hangs or refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_graphs as small

from export.building import BuildError, process
from export.building.process import build
from export.building.profiles import Profile

PROFILE = Profile("whole", {"x": ((1, small.K), (2, small.K), (16, small.K))})
QUERIES = Profile("whole", {"q": ((1, 4, 1, 32), (2, 4, 1, 32), (4, 4, 1, 32))})


@pytest.mark.tensorrt_rtx
def test_the_same_graph_gives_the_same_bytes_and_other_capabilities_give_others(tmp_path: Path):
    path = small.written(small.product("fp32", "int8", both=True), tmp_path)
    first = build(path, [PROFILE], [["8.9"], ["8.6", "8.9"]], 120)
    again = build(path, [PROFILE], [["8.9"], ["8.6", "8.9"]], 120)
    assert [each.plan for each in first.attempts] == [each.plan for each in again.attempts]
    assert first.attempts[0].plan != first.attempts[1].plan
    assert first.version == process.installed()
    assert all(each.processor_seconds > 0 and each.peak_mib > 50 for each in first.attempts)


@pytest.mark.tensorrt_rtx
def test_a_graph_that_crashes_the_builder_is_one_line(tmp_path: Path):
    path = small.written(small.crashing(), tmp_path)
    with pytest.raises(
        BuildError, match=r"^TensorRT for RTX 1\S+ crashed while it built small\.onnx \(signal 11 \(SIG"
    ):
        build(path, [QUERIES], [["8.9"]], 120)


@pytest.mark.tensorrt_rtx
def test_a_file_that_is_no_graph_is_refused_by_the_parser(tmp_path: Path):
    path = tmp_path / "none.onnx"
    path.write_bytes(b"this is no graph")
    answer = build(path, [], [["8.9"]], 120)
    assert not answer.attempts
    assert [each.text for each in answer.unparsed] == ["the file holds no graph with outputs"]


@pytest.mark.tensorrt_rtx
def test_a_capability_that_lacks_a_format_is_refused_by_the_builder(tmp_path: Path):
    path = small.written(small.product("fp16", "fp8", both=True), tmp_path)
    refused, built = build(path, [PROFILE], [["8.6", "8.9"], ["8.9"]], 120).attempts
    assert "Cannot compile for target(s) sm86" in refused.refused
    assert "\n" not in refused.refused
    assert (refused.plan, built.refused) == (None, "")


def test_a_builder_that_hangs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "PROGRAM", "import time; time.sleep(60)")
    with pytest.raises(BuildError, match=r"did not build small\.onnx within 0\.5 s; give it more"):
        build(tmp_path / "small.onnx", [], [["8.9"]], 0.5)


def test_what_is_not_installed_is_said_with_the_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None)
    assert process.installed() == ""
    assert process.missing() == (
        "TensorRT for RTX is not installed; pip install 'tensorrt-rtx-cu13==1.7.1.116', which needs no GPU"
    )

"""The doctor says what runs here, and what it would take to run the rest."""

from __future__ import annotations

import sys

import onnxruntime
import pytest

from compress import doctor
from compress.measure.environment import environment


def test_every_check_says_whether_it_works_and_why() -> None:
    health = doctor.examine()
    assert len({check.name for check in health.checks}) == 5
    assert all(check.detail for check in health.checks)
    runtime = next(check for check in health.checks if check.name == "ONNX Runtime")
    assert runtime.works
    assert runtime.detail.startswith(f"{onnxruntime.__version__}: ")
    assert "CPUExecutionProvider" in runtime.detail


@pytest.mark.parametrize(("flags", "works"), [(("avx2", "avx512_vnni"), True), (("avx2",), False)])
def test_int8_needs_instructions_for_it(flags: tuple[str, ...], works: bool) -> None:
    from dataclasses import replace

    assert doctor.cpu_int8(replace(environment(), flags=flags)).works is works


def test_a_missing_tensorrt_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    check = doctor.tensorrt()
    assert not check.works
    assert "install" in check.detail

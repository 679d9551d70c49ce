"""The doctor says what runs here, and what it would take to run the rest."""

from __future__ import annotations

import sys
from dataclasses import replace

import onnxruntime
import pytest

from compress.cli import machine
from compress.measure.speed.environment import environment


def test_every_check_says_whether_it_works_and_why() -> None:
    health = machine.examine()
    assert len({check.name for check in health.checks}) == 6
    assert all(check.detail for check in health.checks)
    runtime = next(check for check in health.checks if check.name == "ONNX Runtime")
    assert runtime.works
    assert runtime.detail.startswith(f"{onnxruntime.__version__}: ")
    assert "CPUExecutionProvider" in runtime.detail


@pytest.mark.parametrize(
    ("flags", "saturates", "works", "words"),
    [
        (("avx2", "avx512_vnni"), False, True, "avx512_vnni"),
        (("avx2",), True, False, "full-range weights saturate; engines are right all the same: reduce_range: auto"),
        (("avx2", "avx512_vnni"), True, False, "no VNNI"),  # an emulator that shows its host's flags
        (("asimddp",), False, True, "asimddp"),
        ((), False, False, "products do not saturate"),
    ],
)
def test_int8_needs_instructions_for_it(
    flags: tuple[str, ...], saturates: bool, works: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.runtime.processor.products_saturate", lambda: saturates)
    check = machine.cpu_int8(replace(environment(), flags=flags))
    assert check.works is works
    assert words in check.detail


def test_a_missing_tensorrt_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    check = machine.tensorrt()
    assert not check.works
    assert "install" in check.detail

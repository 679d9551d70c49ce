"""Counters of energy in a folder laid out as Linux does."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.measure.speed.energy import Meter


def package(folder: Path, name: str, microjoules: int, largest: int = 1_000_000) -> Path:
    made = folder / name
    made.mkdir()
    (made / "energy_uj").write_text(f"{microjoules}\n")
    (made / "max_energy_range_uj").write_text(f"{largest}\n")
    return made / "energy_uj"


def test_packages_are_summed_and_the_parts_inside_of_them_are_not(tmp_path: Path) -> None:
    files = [package(tmp_path, f"intel-rapl:{number}", 100) for number in (0, 1)]
    package(tmp_path, "intel-rapl:0:0", 100)
    meter = Meter(tmp_path)
    before = meter.read()
    assert before == [100, 100]
    for file in files:
        file.write_text("500100")
    assert meter.since(before) == pytest.approx(1.0)


def test_a_counter_that_began_again_is_carried_on(tmp_path: Path) -> None:
    file = package(tmp_path, "intel-rapl:0", 900_000)
    meter = Meter(tmp_path)
    before = meter.read()
    assert before is not None
    file.write_text("50000")
    assert meter.since(before) == pytest.approx(0.15)


def test_where_there_is_no_counter_nothing_is_read(tmp_path: Path) -> None:
    assert Meter(tmp_path / "none").read() is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").write_text("1")
    assert Meter(tmp_path).read() is None


def test_a_counter_that_must_not_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "intel-rapl:0", 1)
    read = Path.read_text

    def refuse(self: Path, *args: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError("only root")
        return read(self)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert Meter(tmp_path).read() is None

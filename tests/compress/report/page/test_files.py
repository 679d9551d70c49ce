"""Figures as files."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.report.page import files
from compress.report.page.html import html

SVG = "{http://www.w3.org/2000/svg}"


def test_every_figure_of_the_page_is_a_plot_and_its_numbers(report, tmp_path: Path) -> None:
    written = files.write(files.figures_of(report, tmp_path), tmp_path / "figures")
    on_the_page = html(report, tmp_path).count("The numbers of this figure")
    assert len([path for path in written if path.suffix == ".svg"]) == on_the_page > 3
    assert {path.with_suffix("") for path in written if path.suffix == ".csv"} == {
        path.with_suffix("") for path in written if path.suffix == ".svg"
    }
    for path in written:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag == f"{SVG}svg"


def test_the_plot_names_its_lines_below_itself_and_grows_for_them(tmp_path: Path) -> None:
    log = [{"step": 100, "loss": 1.8, "validation": 1.5}, {"step": 200, "loss": 1.4, "validation": 1.25}]
    svg, numbers = files.write([files.training_figure(log)], tmp_path)
    root = ET.parse(svg).getroot()
    texts = {each.text: float(each.get("y", 0)) for each in root.iter(f"{SVG}text")}
    height = float(root.get("viewBox", "").split()[-1])
    assert height - 40 < texts["training"] < texts["validation"] < height
    assert [*csv.reader(numbers.open())] == [["step", "training", "validation"], ["100", "1.8", "1.5"],
                                             ["200", "1.4", "1.25"]]  # fmt: skip


def test_a_training_without_a_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps({"log": [{"step": 1}]}))
    with pytest.raises(InputError, match="log: is not the list of steps that `compress train` writes"):
        files.training_log(tmp_path)

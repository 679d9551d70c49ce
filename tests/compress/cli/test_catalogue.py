"""The catalogue is read from the code itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compress.cli import catalogue
from compress.core.settings import InputError
from compress.models import zoo
from compress.passes import names


def test_every_pass_is_listed_with_its_forms_and_documentation() -> None:
    rows = catalogue.passes()
    assert [row["name"] for row in rows] == names()
    assert all(row["doc"] and all(setting["doc"] for setting in row["settings"]) for row in rows)
    exports = next(row for row in rows if row["name"] == "export")
    assert (exports["accepts"], exports["returns"], exports["exact"]) == ("torch", "onnx", True)


def test_a_setting_has_type_default_and_range() -> None:
    (row,) = catalogue.passes("prune-heads")
    settings = {setting["name"]: setting for setting in row["settings"]}
    assert settings["ratio"] == {
        "name": "ratio", "type": "float", "default": "needed", "doc": "share of the heads to remove [0 to 1]",
    }  # fmt: skip
    assert settings["score"]["type"] == "magnitude | taylor"
    assert settings["score"]["default"] == '"taylor"'
    (row,) = catalogue.passes("distill")
    assert row["settings"][0]["doc"] == "optimizer steps at most [1 to 1,000,000,000]"


def test_an_unknown_pass_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no pass is called 'prune-head'; did you mean 'prune-heads'"):
        catalogue.passes("prune-head")


def test_an_empty_zoo_lists_the_families_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    found = catalogue.models()
    assert found["models"] == []
    assert "reference" in [family["name"] for family in found["families"]]


def test_a_shipped_model_is_listed_by_its_training(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "tiny")
    (tmp_path / "tiny" / "training.json").write_text(json.dumps({"parameters": 17, "held_out_nll": 1.5}))
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    (row,) = catalogue.models()["models"]
    assert (row["name"], row["parameters"], row["held_out_nll"]) == ("tiny", 17, 1.5)
    assert row["doc"] == "8x8 tokens of 17, 10 classes"


def test_a_default_that_is_settings_of_its_own_is_a_mapping() -> None:
    (row,) = catalogue.passes("quantize")
    settings = {setting["name"]: setting for setting in row["settings"]}
    assert settings["budget"]["default"] == "{}"

"""Candidates: whatever a name stands for can be scored and drawn with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from calibration.tokens import digits
from compress.core.settings import InputError
from compress.models import zoo
from compress.models.candidate import open_candidate, open_engine
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import examples
from export.runtime.engine import Engine


@pytest.mark.slow
def test_a_checkpoint_and_an_engine_are_told_apart(shared_run, checkpoint: Path) -> None:
    opened = [open_candidate(str(folder), 1) for folder in (checkpoint, shared_run.output / "engines" / "cpu")]
    assert isinstance(opened[0], ImageModel)
    assert isinstance(opened[1], Engine)
    inputs = examples(opened[0].shape, digits().part("held_out", 2)).inputs
    for candidate in opened:
        assert (candidate.vocabulary, candidate.classes, candidate.length) == (17, 10, 64)
        assert candidate.score(inputs).shape == candidate.score_stepwise(inputs).shape == (2, 64, 17)


def test_a_shipped_model_is_opened_by_its_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "tiny")
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    assert isinstance(open_candidate("tiny"), ImageModel)
    with pytest.raises(
        InputError, match=r"'tinny' is neither a file or folder nor a shipped model; did you mean 'tiny'\?"
    ):
        open_candidate("tinny")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no weights; looked for files that end in"):
        open_candidate(str(tmp_path))


def test_a_damaged_engine_is_refused(finished) -> None:
    folder = finished.output / "engines" / "cpu"
    graph = folder / json.loads((folder / "manifest.json").read_text())["files"]["decode"]
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(InputError, match=graph.name):
        open_engine(folder, threads=1)

"""Finding a family and a checkpoint by name or by path."""

from __future__ import annotations

import pytest

from compress.core.settings import InputError
from compress.models import families, zoo
from compress.models.families import reference


@pytest.fixture
def shipped(tmp_path, monkeypatch, tiny_model):
    """A zoo of one model called 'digits'."""
    root = tmp_path / "zoo"
    (root / "digits").mkdir(parents=True)
    (root / "draft").mkdir()
    reference.save(tiny_model(), root / "digits")
    monkeypatch.setattr(zoo, "ROOT", root)
    return root


def test_the_reference_is_a_family() -> None:
    assert "reference" in families.names()


def test_only_folders_with_a_config_ship(shipped):
    assert zoo.names() == ["digits"]


def test_a_shipped_model_is_found_by_name_and_any_other_by_path(shipped, tiny_model, tmp_path, monkeypatch):
    assert families.locate("digits", "r.yaml: model.checkpoint") == shipped / "digits"
    assert families.load(families.Source("digits"), "r.yaml: model").name == "tiny"
    mine = tmp_path / "mine"
    mine.mkdir()
    reference.save(tiny_model(), mine)
    assert families.locate(str(mine), "r.yaml: model.checkpoint") == mine
    monkeypatch.setenv("HOME", str(tmp_path))
    assert families.locate("~/mine", "r.yaml: model.checkpoint") == mine


def test_a_checkpoint_that_is_nowhere_is_refused_with_the_nearest_name(shipped):
    with pytest.raises(InputError) as caught:
        families.locate("digit", "r.yaml: model.checkpoint")
    assert str(caught.value) == (
        "r.yaml: model.checkpoint: 'digit' is neither a file or folder nor a shipped model; did you mean 'digits'?"
    )


def test_an_unknown_family_is_refused_with_the_nearest_name(shipped):
    with pytest.raises(InputError) as caught:
        families.load(families.Source("digits", "referenc"), "r.yaml: model")
    assert str(caught.value) == "r.yaml: model.family: 'referenc' is not a family; did you mean 'reference'?"

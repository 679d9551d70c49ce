"""Targets: one file each, known to the runtime by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import targets
from export.runtime import deployment
from export.targets import Target, find


@pytest.mark.parametrize("name", deployment.OWN)
def test_a_target_has_a_file_of_its_name(name: str) -> None:
    target = find(name)
    assert target.name == name
    assert type(target).__module__ == f"export.targets.{name}"
    assert issubclass(type(target), Target)


def test_every_file_that_holds_a_target_is_known_to_the_runtime() -> None:
    files = {path.stem for path in Path(targets.__file__).parent.glob("*.py") if "(Target):" in path.read_text()}
    assert files == set(deployment.OWN)


@pytest.mark.parametrize("name", deployment.OWN)
def test_the_caches_that_a_target_makes_are_those_that_its_engines_may_have(name: str) -> None:
    target, found = find(name), deployment.find(name)
    assert found is not None
    assert {target.cache, "none"} <= set(found.caches)
    assert "attention" not in target.fusions or target.fused_cache in found.caches
    assert (target.builder is None) == (found.opens is None)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no target is called 'npu'; known: onnxruntime, standard, tensorrt$"):
        find("npu")
    assert deployment.find("npu") is None

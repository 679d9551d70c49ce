"""The verifier's own trial, on few seeds."""

from __future__ import annotations

import pytest

from compress.models.image_model import ImageModel
from compress.verifying import selftest
from compress.verifying.selftest import Caught, SelfTest, alarms, localised
from compress.verifying.selftest.faults import FAULTS, built


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_noticed_and_named_where_it_was_planted(fault) -> None:
    base = fault.base if fault.base != "shipped" else "modulated" if "AdaLN" in fault.name else "rotary"
    sound = built(base)
    given = selftest.questions_of(sound)
    faulty = fault.plant(sound)
    assert alarms(sound, faulty, given)
    if fault.base != "untrained":
        assert localised(sound, faulty, given) == fault.where(sound)


@pytest.mark.parametrize("base", ["rotary", "modulated"])
def test_a_model_is_equal_to_itself(base) -> None:
    sound = built(base)
    given = selftest.questions_of(sound)
    assert alarms(sound, sound, given) == []
    assert localised(sound, sound, given) == ""


def test_learned_positions_that_are_off_by_one_show_in_the_embedding() -> None:
    sound = built("modulated")
    fault = next(each for each in FAULTS if each.name == "positions off by one")
    assert localised(sound, fault.plant(sound), selftest.questions_of(sound)) == "embedding" == fault.where(sound)


def test_a_fault_leaves_the_sound_model_as_it_was() -> None:
    sound = built("modulated")
    before = {name: value.clone() for name, value in sound.transformer.state_dict().items()}
    for fault in FAULTS:
        if fault.base in ("modulated", "untrained"):
            made = fault.plant(sound)
            assert isinstance(made, ImageModel)
    assert all((value == before[name]).all() for name, value in sound.transformer.state_dict().items())


def test_the_result_says_how_many_and_what_was_missed() -> None:
    right = Caught("a", ("one pass",), "blocks.1", "blocks.1")
    elsewhere = Caught("b", ("one pass",), "blocks.1", "blocks.0")
    unnoticed = Caught("c", (), "", "")
    assert SelfTest((right,), 1, 100, 5).passed
    assert not SelfTest((right,), 2, 100, 5).passed, "above the stated rate"
    found = SelfTest((right, elsewhere, unnoticed), 0, 100, 5)
    assert not found.passed
    assert found.words() == "caught 1 of 3; false alarms 0 of 100"


@pytest.mark.slow
def test_the_shipped_reference_and_its_engine_are_equal(monkeypatch) -> None:
    monkeypatch.setattr(selftest, "FAULTS", FAULTS[1:2])
    found = selftest.run(seeds=2)
    assert found.words() == "caught 1 of 1; false alarms 0 of 2"

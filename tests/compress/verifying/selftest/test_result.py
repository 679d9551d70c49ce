"""What passes, and what is said of what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compress.verifying.selftest import result
from compress.verifying.selftest.result import Quiet, SelfTest, measure_of, only_seen_by
from compress.verifying.selftest.trial import Caught, Seen

# A fault that one measure alone sees, for each measure of `verify`.
ALONE = {
    "fidelity": "kl",
    "sampled": "total_variation",
    "cached_loop": "cached_loop",
    "coupled": "coupled_tokens",
    "one_file": "single_file_images",
    "sampler": "sampler_tokens",
    "decoding": "decoder_psnr",
    "encoding": "encoder_agreement",
    "shown": "images",
    "evidence": "evidence",
    "worst": "worst_token_shift",
}


def caught(fault: str = "a", noticed: tuple[str, ...] = ("kl",), **changes: object) -> Caught:
    made = Caught(fault, "plain", "exact", True, Seen(noticed, (), ()), ("blocks.1",), "blocks.1")
    return replace(made, **changes)


def quiet(rang: int = 0, gates: str = "exact", trials: int = 60) -> Quiet:
    return Quiet("none", "plain", gates, trials, ("kl",) * rang, "")


@pytest.fixture
def sound() -> SelfTest:
    """A self-test in which all is well."""
    faults = tuple(caught(name, (measurement,)) for name, measurement in ALONE.items())
    assert set(ALONE) <= set(measure_of().values())
    return SelfTest(faults, (quiet(), quiet(gates="tight")), 200, 10, 100.0)


@pytest.fixture(autouse=True)
def known_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures that are not in the table have no fault here."""
    others = dict.fromkeys(set(measure_of().values()) - set(ALONE), "not of this test")
    monkeypatch.setattr(result, "REDUNDANT", others)


def test_all_well(sound) -> None:
    assert sound.passed
    assert list(sound.words()) == [
        "caught 11 of 11; placed 11 of 11",
        "false alarms of the exact gates: 0 of 60 (95 % interval up to 6 %)",
        "false alarms of the tight gates: 0 of 60 (95 % interval up to 6 %)",
        "95 % intervals of the difference of two halves of the same scores left out 0 in 10 of 200; 2 to 21 are usual",
    ]


def test_a_missed_fault_is_named_and_one_is_too_many(sound) -> None:
    found = replace(sound, faults=(*sound.faults, caught("noise", ())))
    assert not found.passed
    assert "missed: noise (plain)" in list(found.words())


def test_a_fault_below_the_floor_need_not_be_noticed(sound) -> None:
    found = replace(sound, faults=(*sound.faults, caught("rounding", (), above=False, named="")))
    assert found.passed
    assert next(found.words()) == "caught 11 of 11; placed 11 of 11; 1 below the floor"


def test_one_of_twenty_may_be_misplaced(sound) -> None:
    elsewhere = caught("b", ("kl",), named="blocks.0")
    enough = (*sound.faults, *[caught()] * 8, elsewhere)
    found = replace(sound, faults=enough)
    assert found.passed
    assert "misplaced: b (plain): in blocks.0, not blocks.1" in list(found.words())
    assert not replace(sound, faults=(*enough, replace(elsewhere, named=""))).passed


@pytest.mark.parametrize(("rang", "passed"), [(3, True), (4, False)])
def test_false_alarms_of_each_set_are_held_to_the_stated_rate(rang, passed, sound) -> None:
    assert replace(sound, quiet=(quiet(), quiet(rang, "tight"))).passed is passed


@pytest.mark.parametrize(("missed", "passed"), [(1, False), (2, True), (21, True), (22, False)])
def test_intervals_may_be_neither_too_narrow_nor_too_wide(missed, passed, sound) -> None:
    assert replace(sound, intervals_missed=missed).passed is passed


@pytest.mark.parametrize("measure", ALONE)
def test_a_measure_that_goes_blind_is_noticed(measure, sound) -> None:
    """Its breaches are gone, so what it alone saw is missed."""
    blind = tuple(
        replace(each, seen=Seen(tuple(name for name in each.noticed if measure_of()[name] != measure), (), ()))
        for each in sound.faults
    )
    found = replace(sound, faults=blind)
    assert not found.passed
    assert f"missed: {measure} (plain)" in list(found.words())


@pytest.mark.parametrize("measure", ALONE)
def test_a_measure_that_no_fault_needs_is_named(measure, sound) -> None:
    found = replace(sound, faults=tuple(each for each in sound.faults if each.fault != measure))
    assert not found.passed
    assert list(found.words())[-1] == f"blinding {measure} would go unnoticed: plant a fault that only it sees"


def test_two_measurements_of_one_measure_are_one() -> None:
    both = caught(noticed=("kl", "nll_drift"))
    assert only_seen_by((both, caught(noticed=("kl", "total_variation"))))["fidelity"] == [both]

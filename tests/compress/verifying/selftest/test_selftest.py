"""The whole self-test, and its parts on two of the sound engines."""

from __future__ import annotations

from collections import Counter

import pytest

from compress.measure.drift.coupled import Coupled
from compress.measure.pictures.decoding import Decoding
from compress.measure.pictures.encoding import Encoding
from compress.measure.pictures.shown import Shown
from compress.measure.statistics import share
from compress.measure.subject import Subject
from compress.verifying import selftest
from compress.verifying.selftest import FAULTS, FIRST_SEED, TRIALS, quiet_tasks
from compress.verifying.selftest.bases import BASES
from compress.verifying.selftest.harmless import HARMLESS
from compress.verifying.selftest.remembered import Remembered
from compress.verifying.selftest.trial import REFUSED, Seen, edited, flat, named, seen, trial
from compress.verifying.selftest.work import QUIET, Room


def test_there_are_enough_faults_of_every_kind_of_engine() -> None:
    assert len(FAULTS) >= 40
    assert {each.base for each in FAULTS} == set(BASES)
    assert max(Counter((each.name, each.base) for each in FAULTS).values()) == 1
    assert max(Counter((each.name, each.base) for each in HARMLESS).values()) == 1
    assert all(each.edits or each.settings for each in FAULTS)
    assert all(each.places for each in FAULTS)
    assert max(len(each.name) for each in FAULTS) <= 33, "tables are at most 80 columns wide"


def test_no_false_alarm_in_so_many_trials_shows_a_rate_below_five_percent() -> None:
    assert all(share(0, count).high < selftest.MOST_FALSE for count in TRIALS.values())


def test_trials_go_round_the_engines_of_a_set_of_gates() -> None:
    tasks = quiet_tasks({"exact": 13, "tight": 3})
    assert len(set(tasks)) == 16
    assert [seed for _, _, seed in tasks[-3:]] == [FIRST_SEED] * 3
    assert max(seed for _, _, seed in tasks) == FIRST_SEED + 1
    assert Counter(QUIET[which].gates for _, which, _ in tasks) == {"exact": 13, "tight": 3}


@pytest.mark.parametrize("base", ["plain", "fused"])
def test_a_sound_engine_is_quiet(base, bases) -> None:
    sound = bases[base]
    assert seen(sound.model, sound.folder) == Seen((), (), ())
    assert named(sound.folder, sound.folder) == ""


@pytest.mark.parametrize("name", ["5 % wrong scale in one product", "stale cache", "noise halved", "images inverted"])
def test_a_fault_is_seen(name, bases, tmp_path) -> None:
    fault = next(each for each in FAULTS if each.name == name and each.base in bases)
    base = bases[fault.base]
    found = trial(fault, base, Remembered(base.model), tmp_path / "faulty", "exact")
    assert found.caught
    assert (found.fault, found.base, found.places) == (name, fault.base, fault.places)


@pytest.mark.parametrize(
    ("measure", "base", "name"),
    [
        (Coupled, "plain", "only sixteen rows are cached"),
        (Encoding, "plain", "pictures read inverted"),
        (Shown, "plain", "images inverted"),
        (Decoding, "fused", "last convolution 0.1 % off"),
    ],
    ids=["coupled", "encoding", "shown", "decoding"],
)
def test_a_blind_measure_is_noticed(measure, base, name, bases, tmp_path, monkeypatch) -> None:
    """It looks at the reference instead of the candidate; the fault that it alone sees is then missed."""
    fault = next(each for each in FAULTS if (each.name, each.base) == (name, base))
    run = measure.run.__func__
    monkeypatch.setattr(
        measure, "run", classmethod(lambda cls, subject: run(cls, Subject(subject.reference, subject.reference)))
    )
    assert not trial(fault, bases[base], Remembered(bases[base].model), tmp_path / "faulty", "exact").caught


def test_numbers_that_cannot_be_judged_are_refused(bases, tmp_path) -> None:
    fault = next(each for each in FAULTS if each.name == "a weight is NaN")
    folder = edited(bases["fused"].folder, tmp_path / "faulty", fault.edits, {})
    assert seen(bases["fused"].model, folder).exact == (REFUSED,)


def test_a_flat_reference_is_no_evidence(bases, tmp_path) -> None:
    fault = next(each for each in FAULTS if each.flat)
    folder = edited(bases["fused"].folder, tmp_path / "faulty", fault.edits, {})
    assert seen(flat(bases["fused"].model), folder).tight == ("evidence",)


@pytest.mark.parametrize("edit", [each for each in HARMLESS if each.base == "fused"], ids=lambda each: each.name)
def test_a_harmless_edit_is_quiet(edit, bases, tmp_path) -> None:
    folder = edited(bases["fused"].folder, tmp_path / "edited", edit.edits, {})
    assert seen(bases["fused"].model, folder).by(edit.gates) == ()


def test_a_room_does_tasks_by_number(bases, tmp_path) -> None:
    room = Room(bases["plain"].folder.parent)
    plain = next(place for place, each in enumerate(QUIET) if (each.name, each.base) == ("none", "plain"))
    assert room.done(("quiet", plain, 1)) == ()
    assert room.done(("named", plain, 0)) == ""
    fault = next(place for place, each in enumerate(FAULTS) if each.name == "cfg_scale 1 in the manifest")
    assert "sampler" in room.done(("fault", fault, 0)).noticed
    assert not (room.room / f"fault {fault}").exists()


def test_intervals_leave_out_nothing_about_one_time_in_twenty() -> None:
    assert 0 <= selftest.intervals_missed(20) <= 4


@pytest.mark.slow
def test_the_verifier_finds_what_is_planted_and_nothing_else() -> None:
    reports = []
    found = selftest.run(lambda done, count: reports.append((done, count)), processes=1)
    assert found.passed, list(found.words())
    assert len(found.counted) >= 40
    assert reports[-1][0] == reports[-1][1]
    assert found.seconds < 600

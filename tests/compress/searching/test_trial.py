"""A trial: cheap before dear, stopped at the first limit that it does not keep, refused where it makes no engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.core import lease
from compress.core.settings import InputError
from compress.core.store import StoreError
from compress.passes import PassError
from compress.passes.distill import Distill
from compress.passes.prune_ffn import PruneFfn
from compress.running import measurements
from compress.searching import looks
from compress.searching import trial as trials
from compress.searching import workshop as workshops
from compress.searching.row import NotHereError, Row, Stopped, of_the_machine
from compress.searching.trial import evaluate
from compress.searching.workshop import Workshop

PLAIN = {"prune-ffn.ratio": 0.25, "prune-heads used": False}
Make = Callable[..., Workshop]


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be timed."""
    monkeypatch.setattr(measurements, "paired", lambda *args, **kwargs: pytest.fail("timed"))


def test_what_trials_have_in_common_is_made_once(searched) -> None:
    alike = [each for each in searched.found.trials if each.picked["prune-ffn.ratio"] == 0.25]
    folders = list((searched.store / "artifacts").iterdir())
    keys = {each.artifact for each in searched.found.trials if each.artifact}
    assert keys <= {folder.name for folder in folders}
    assert len(alike) >= 1


def test_a_size_beyond_its_budget_ends_a_trial_before_drift_and_time(workshop: Make, untimed: None) -> None:
    found = evaluate(workshop({"size": "1kB", "kl": "50"}), PLAIN, [])
    assert found.state == "stopped"
    assert found.breached == ("size",)
    assert set(found.found) == {"size"}
    assert found.reason.startswith("cpu: size ")
    assert found.lacks == (found.reason,)
    assert found.excess > 1


def test_drift_of_a_few_pictures_ends_a_trial_before_its_engine_is_made(
    workshop: Make, untimed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials.Trial, "weigh", lambda self: pytest.fail("an engine was weighed"))
    found = evaluate(workshop({"kl": "0.0001"}), {**PLAIN, "prune-ffn.ratio": 0.5}, [])
    assert found.state == "stopped"
    assert "on 32 pictures, the favourable end of the 95 % interval" in found.reason
    assert found.breached == ("kl",)
    assert found.size_bytes is None


def test_a_combination_that_makes_no_engine_is_refused_with_the_words_of_the_pass(workshop: Make) -> None:
    found = evaluate(workshop({"kl": "50"}), {**PLAIN, "prune-ffn.ratio": 1.0}, [])
    assert found.state == "refused"
    assert "prune-ffn" in found.reason
    assert found.excess == 100


def test_a_full_disk_says_nothing_of_a_combination(workshop: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, model: Any, context: Any) -> Any:
        raise OSError(28, "No space left on device")

    shop = workshop({"kl": "50"})
    monkeypatch.setattr(PruneFfn, "apply", full)
    shop.store.held.clear()
    with pytest.raises(InputError, match="the disk is full"):
        evaluate(shop, {"prune-ffn.ratio": 0.25 + 1e-9, "prune-heads used": False}, [])


def test_an_unexpected_error_refuses_a_combination_once_another_was_measured(
    workshop: Make, searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> Any:
        raise RuntimeError("sizes do not match")

    shop = workshop({"kl": "50"})
    monkeypatch.setattr(trials.Trial, "make", broken)
    found = evaluate(shop, PLAIN, searched.found.trials)
    assert (found.state, found.reason) == ("refused", "an unexpected error, RuntimeError: sizes do not match")
    with pytest.raises(RuntimeError, match="sizes do not match"):
        evaluate(shop, PLAIN, [])


def test_errors_of_the_machine_are_told_from_those_of_a_pass() -> None:
    disk = InputError("the disk is full")
    disk.__cause__ = OSError(28, "No space left on device")
    assert of_the_machine(disk)
    assert of_the_machine(MemoryError())
    assert of_the_machine(NotHereError("no TensorRT"))
    assert of_the_machine(StoreError("store s3://b: cannot be reached"))
    refused = InputError("s.yaml: prune-ffn: leaves none")
    refused.__cause__ = PassError("leaves none")
    assert not of_the_machine(refused)


def test_a_trial_is_timed_alone_and_works_under_the_shared_lease(
    workshop: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = lease.taken

    def watched(name: str, kind: int, wait: Any) -> Any:
        seen.append(f"{name} {'alone' if kind == lease.EXCLUSIVE else 'shared'}")
        return real(name, kind, wait)

    shop = workshop({"kl": "51"})  # measured already, but for the time
    monkeypatch.setattr(lease, "taken", watched)
    paired = measurements.paired
    monkeypatch.setattr(measurements, "paired", lambda *a, **kw: (seen.append("timed"), paired(*a, **kw))[1])
    monkeypatch.setattr(measurements, "SPEED_VERSION", -1)
    assert evaluate(shop, PLAIN, []).kept
    before = seen[: seen.index("timed")]
    assert before[-3:] == [f"{lease.WANTED} alone", f"{lease.WORK} alone", f"{lease.TIMING} alone"]
    assert f"{lease.WORK} shared" in before


def test_a_pass_that_times_has_the_machine_alone(workshop: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    shop = workshop({"kl": "50"})
    monkeypatch.setattr(PruneFfn, "takes_times", property(lambda self: True))
    monkeypatch.setattr(trials, "alone", lambda say: nullcontext(seen.append("alone")))
    monkeypatch.setattr(trials, "working", lambda: nullcontext(seen.append("shared")))
    assert evaluate(shop, PLAIN, []).kept
    assert seen[:2] == ["alone", "shared"], "the pass, then the export"
    assert seen[-1] == "alone", "the time"


def test_several_objectives_are_measured_in_their_order(workshop: Make, untimed: None) -> None:
    found = evaluate(workshop({}, ("size", "kl")), PLAIN, [])
    assert found.kept
    assert found.values == (found.found["size"].value, found.found["kl"].value)
    assert found.ms_per_token is None


TRAINED = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 8, held_out: 12}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - prune-ffn: {{ratio: {{choose: [0.25, 0.75]}}, score: magnitude, repair: false}}
  - distill:   {{steps: 2, batch: 4, hidden: 0, warmup: 0}}
engines:
  cpu: [export: {{target: onnxruntime}}]
"""


@pytest.fixture
def trained(checkpoint: Path, tmp_path: Path) -> Path:
    """A space with a training."""
    path = tmp_path / "trained.yaml"
    path.write_text(TRAINED.format(checkpoint=checkpoint))
    return path


def test_what_began_further_off_than_one_that_did_not_come_back_is_not_trained(
    workshop: Make, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop({"kl": "50"}, path=trained)
    monkeypatch.setattr(Workshop, "rehearse", lambda *args: None)
    monkeypatch.setattr(Distill, "apply", lambda *args: pytest.fail("it was trained"))
    row = Row({"prune-ffn.ratio": 0.75})
    trial = trials.Trial(shop, trials.recipe_of(shop.space, row.picked), row, [])
    looks.before_training(trial, 1)
    assert row.start is not None
    other = row.outcome("stopped", "")
    other = replace(other, number=3, start=row.start / 2, judged=("kl",), breached=("kl",), excess=0.5)
    found = evaluate(shop, {"prune-ffn.ratio": 0.75}, [other])
    assert found.state == "stopped"
    assert "in front of its training; trial 3 began with no more, was trained alike, and ended" in found.reason
    assert found.judged == (), "it is no evidence for the next"


def test_a_chain_with_a_training_is_rehearsed_once_for_its_settings_and_refused_if_that_fails(
    workshop: Make, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed: list[int] = []
    shop = workshop({"kl": "50"}, path=trained)

    def failing(*args: Any) -> None:
        rehearsed.append(1)
        raise InputError("preflight: distill: the loss is NaN")

    monkeypatch.setattr(workshops, "drive", failing)
    found = evaluate(shop, {"prune-ffn.ratio": 0.25}, [])
    assert (found.state, found.reason) == ("refused", "preflight: distill: the loss is NaN")
    monkeypatch.setattr(workshops, "drive", lambda *args: rehearsed.append(1))
    monkeypatch.setattr(looks, "first_look", lambda trial, node: trial.row.lacks.append("x") or stop())
    evaluate(shop, {"prune-ffn.ratio": 0.25}, [])
    evaluate(shop, {"prune-ffn.ratio": 0.75}, [])
    assert len(rehearsed) == 2, "the second combination trains alike"


def stop() -> None:
    """End a trial."""
    raise Stopped("enough")

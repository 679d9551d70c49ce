"""The training loop: schedule, resume, early stop and the weight average."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.core.settings import InputError
from compress.training.checkpoint import read_checkpoint
from compress.training.loop import Schedule, fit


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def loss_of(model: nn.Module):
    def loss(step: int) -> Tensor:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        return (model(x).squeeze(1) - x.sum(1)).square().mean()

    return loss


def validation(model: nn.Module) -> float:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(10_000))
    return (model(x).squeeze(1) - x.sum(1)).square().mean().item()


SCHEDULE = Schedule(steps=40, learning_rate=0.05, warmup=5, weight_decay=0.01, ema=0.9, validate_every=10)


def test_the_rate_warms_up_linearly_then_follows_a_cosine() -> None:
    schedule = Schedule(steps=12, learning_rate=1.0, warmup=2, final_share=0.0)
    assert [schedule.rate(step) for step in (0, 1, 2, 7)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert schedule.rate(12) == pytest.approx(0.0)
    assert schedule.rate(4) == pytest.approx((1 + math.cos(math.pi * 0.2)) / 2)


def test_training_lowers_the_validation_loss_and_logs_it() -> None:
    model = fresh()
    before = validation(model.eval())
    log = fit(model, loss_of(model), SCHEDULE, seed=1, validate=validation)
    assert [row["step"] for row in log] == [10, 20, 30, 40]
    assert log[-1]["validation"] < before / 3
    assert validation(model) == pytest.approx(log[-1]["validation"])


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, cut = fresh(), fresh()
    fit(whole, loss_of(whole), SCHEDULE, seed=1, validate=validation)
    checkpoint = tmp_path / "checkpoint.pt"

    def interrupted(step: int) -> Tensor:
        if step == 23:
            raise KeyboardInterrupt
        return loss_of(cut)(step)

    with pytest.raises(KeyboardInterrupt):
        fit(cut, interrupted, SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint)
    again = fresh()
    steps: list[int] = []
    report = lambda done, total, values: steps.append(done)  # noqa: E731
    fit(again, loss_of(again), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, report=report)
    assert steps[0] == 24, "it went on where it was"
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_schedule_is_not_resumed(tmp_path: Path) -> None:
    checkpoint, model = tmp_path / "checkpoint.pt", fresh()
    fit(model, loss_of(model), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, checkpoint_seconds=0)
    assert checkpoint.exists()
    steps: list[int] = []
    other = fresh()
    fit(
        other, loss_of(other), SCHEDULE, seed=2, validate=validation, checkpoint=checkpoint,
        report=lambda done, total, values: steps.append(done),
    )  # fmt: skip
    assert steps[0] == 1


def test_early_stop_keeps_the_best_weights() -> None:
    model = fresh()
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    kept: list[Tensor] = []

    def validate(model: nn.Module) -> float:
        kept.append(next(model.parameters()).detach().clone())
        return next(values)

    schedule = Schedule(steps=100, learning_rate=0.01, validate_every=5, patience=2)
    log = fit(model, loss_of(model), schedule, seed=1, validate=validate)
    assert [row["step"] for row in log] == [5, 10, 15, 20]
    assert torch.equal(next(model.parameters()), kept[1])


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("patience", [0, 3])
def test_a_training_interrupted_while_it_validates_ends_with_the_same_weights(
    tmp_path: Path, ema: float, patience: int
) -> None:
    schedule = replace(SCHEDULE, ema=ema, patience=patience)
    whole, cut, again = fresh(), fresh(), fresh()
    log = fit(whole, loss_of(whole), schedule, seed=1, validate=validation)
    checkpoint, calls = tmp_path / "checkpoint.pt", 0

    def interrupted(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return validation(model)

    with pytest.raises(KeyboardInterrupt):
        fit(cut, loss_of(cut), schedule, seed=1, validate=interrupted, checkpoint=checkpoint)
    assert fit(again, loss_of(again), schedule, seed=1, validate=validation, checkpoint=checkpoint) == log
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_interruption_that_tears_a_step_in_two_goes_back_to_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, again = fresh(), fresh(), fresh()
    fit(whole, loss_of(whole), SCHEDULE, seed=1, validate=validation)
    checkpoint, calls, step = tmp_path / "checkpoint.pt", 0, torch.optim.AdamW.step

    def torn(self: torch.optim.AdamW) -> None:
        nonlocal calls
        calls += 1
        step(self)
        if calls == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(KeyboardInterrupt):
        fit(
            cut, loss_of(cut), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, checkpoint_seconds=-1
        )  # fmt: skip
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit(again, loss_of(again), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    model, checkpoint = fresh(), tmp_path / "checkpoint.pt"
    arguments = {"seed": 1, "validate": validation, "checkpoint": checkpoint}
    log = fit(model, loss_of(model), SCHEDULE, checkpoint_seconds=-1, **arguments)

    def refuse(step: int) -> Tensor:
        raise AssertionError("a step was taken")

    again = fresh()
    assert fit(again, refuse, SCHEDULE, **arguments) == log
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_not_resumed_and_training_begins_anew(tmp_path: Path, damage: bytes | None) -> None:
    whole, again, checkpoint = fresh(), fresh(), tmp_path / "checkpoint.pt"
    fit(whole, loss_of(whole), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, checkpoint_seconds=-1)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500] if damage is None else damage)
    fit(again, loss_of(again), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_task_is_not_resumed(tmp_path: Path) -> None:
    model, checkpoint, steps = fresh(), tmp_path / "checkpoint.pt", []
    fit(model, loss_of(model), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, checkpoint_seconds=-1)

    def report(step: int, total: int, values: dict[str, float]) -> None:
        steps.append(step)

    other = fresh()
    fit(
        other, loss_of(other), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, task="other", report=report
    )  # fmt: skip
    assert steps[0] == 1


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, checkpoint, save = fresh(), tmp_path / "checkpoint.pt", torch.save
    fit(model, loss_of(model), SCHEDULE, seed=1, validate=validation, checkpoint=checkpoint, checkpoint_seconds=-1)
    before = checkpoint.read_bytes()

    def full(value: object, path: Path) -> None:
        save(value, path)
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    again = fresh()
    with pytest.raises(RuntimeError, match="unexpected pos"):
        fit(again, loss_of(again), SCHEDULE, seed=2, validate=validation, checkpoint=checkpoint, checkpoint_seconds=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.read_bytes() == before


def test_a_folder_in_place_of_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(InputError, match=r"checkpoint\.pt: is no file, but has the place of a training's checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_a_damaged_one(tmp_path: Path, monkeypatch) -> None:
    def private(path: Path, **settings: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "checkpoint.pt").touch()
    monkeypatch.setattr(torch, "load", private)
    with pytest.raises(PermissionError):
        read_checkpoint(tmp_path / "checkpoint.pt")

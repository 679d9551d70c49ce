"""One training loop, for `compress train` and for distillation: AdamW, cosine, clipping, EMA, early stop, resume.

In one process or in several (`World`), which end with the same weights to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compress.core.settings import digest
from compress.training import sharding
from compress.training.checkpoint import read_checkpoint, write_checkpoint
from compress.training.dropout import seeded
from compress.training.gradients import Gradients, Part
from compress.training.world import ALONE, World, is_lost

Loss = Callable[[int], Tensor | Sequence[Part]]
Validate = Callable[[nn.Module], float]
OnProgress = Callable[[int, int, dict[str, float]], None]
REPORT_EVERY = 20  # steps, on a GPU, where saying the loss means waiting for it


class Kept(Protocol):
    """What a loss keeps from one step to the next, and a checkpoint has to hold."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    `ema` is the decay of the weight average that is kept in the end (0: the last weights). With `patience` above 0,
    training stops after that many validations without a better one, and the best weights are kept.
    """

    steps: int
    learning_rate: float
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    validate_every: int = 100
    patience: int = 0
    final_share: float = 0.01

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine down to `final_share` of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * progress)) / 2)


def fit(
    model: nn.Module,
    loss: Loss,
    schedule: Schedule,
    *,
    seed: int,
    validate: Validate,
    task: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    report: OnProgress | None = None,
    after: Callable[[int], None] | None = None,
    state_of_loss: Kept | None = None,
    world: World = ALONE,
    sharded: bool = False,
) -> list[dict[str, float]]:
    """Train the model in place and return the log, one row per validation.

    Every step draws its randomness from (seed, step) alone, so a run that resumes from `checkpoint` (written every
    `checkpoint_seconds` and at an interruption, unless that tears a step in two) ends with the same weights as one that
    was never stopped. `loss(step)` must do likewise. It gives the loss whole, or functions that give its parts, which
    add up to it; each part's gradient is taken before the next part is asked for, so that only one part's activations
    are in memory.

    In a `world` of several processes each calls this with the same arguments. `loss` gives the process's share of the
    loss, all of which add up to it; `validate` the same number in each. The first process alone reports and writes the
    checkpoint, which any number of processes go on with. Weights may be `sharded` over the processes before.

    `task` names what the loss is made of (data, augmentation): a checkpoint of another task, schedule or shape is not
    resumed, nor is a damaged one. `after(step)` changes what no gradient reaches, as part of the step.
    `state_of_loss` is what the loss keeps between steps.
    """
    gradients = Gradients(model, world, sharded=sharded)
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=(0.9, 0.95),
    )
    device = next(model.parameters()).device
    average = {name: value.detach().clone() for name, value in model.state_dict().items()} if schedule.ema else {}
    state: dict[str, Any] = {"step": 0, "log": [], "best": math.inf, "best_weights": {}, "stale": 0, "loss": math.nan}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    identity = digest(schedule, seed, shapes, task)
    saved = world.from_first(lambda: read_checkpoint(checkpoint))
    if saved.get("identity") == identity and {"model", "optimizer", "average", "state", "kept"} <= set(saved):
        if sharded:
            saved = split(saved, model, optimizer)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average = {name: value.to(device) for name, value in saved["average"].items()}
        state = saved["state"]
        if state_of_loss is not None:
            state_of_loss.load_state_dict(saved["kept"])
    # Smoothed, and left on the device: reading it at every step would make the processor wait for the GPU.
    state["loss"] = torch.as_tensor(state["loss"], dtype=torch.float64, device=device)

    def save() -> None:
        if checkpoint is None or not (world.first or sharded):
            return
        saved = {
            "identity": identity,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "state": state,
            "kept": {} if state_of_loss is None else state_of_loss.state_dict(),
        }
        if sharded:
            saved = sharding.whole(saved)
        if world.first:
            write_checkpoint(saved, checkpoint)

    def due() -> bool:
        """Whether the weights of this step are still to be validated."""
        at: int = state["step"]
        log: list[dict[str, float]] = state["log"]
        return at > (log[-1]["step"] if log else 0) and (at % schedule.validate_every == 0 or at == schedule.steps)

    def judge() -> None:
        """Validate the weights that would be kept, and remember the best where early stop is on."""
        current = {name: value.detach().clone() for name, value in model.state_dict().items()}
        try:
            if average:
                model.load_state_dict(average)
            model.eval()
            with torch.no_grad():
                value = validate(model)
            value = world.from_first(lambda: value)  # early stop is decided alike, whatever the last bit is
            row = {"step": state["step"], "loss": float(state["loss"]), "validation": value}
            changes: dict[str, Any] = {"log": [*state["log"], row]}
            if schedule.patience and value < state["best"]:
                kept = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
                changes |= {"best": value, "best_weights": kept, "stale": 0}
            elif schedule.patience:
                changes["stale"] = state["stale"] + 1
            state.update(changes)  # all at once: an interruption leaves the validation done or still due
        finally:
            model.load_state_dict(current)

    saved_at, undivided = time.monotonic(), True
    try:
        if due():  # the interruption that is resumed fell into a validation
            judge()
        while state["step"] < schedule.steps and not (schedule.patience and state["stale"] >= schedule.patience):
            step = state["step"]
            seeded((seed << 32) + step, world, device)
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.zero_grad(set_to_none=True)
            value = gradients.take(loss(step))
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            undivided = False
            optimizer.step()
            if after is not None:
                after(step)
            seen = value.double()
            state["loss"] = 0.98 * (state["loss"] if step else seen) + 0.02 * seen
            if average:
                # The decay grows with the step, so the average forgets the random start (as in TensorFlow's EMA).
                kept, share = list(average.values()), 1 - min(schedule.ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(kept, list(model.state_dict().values()), share)
            state["step"] = step + 1
            undivided = True
            if due():
                judge()
            if report is not None and world.first and (device.type == "cpu" or state["step"] % REPORT_EVERY == 0):
                last = state["log"][-1] if state["log"] else {}
                report(state["step"], schedule.steps, {**last, "loss": float(state["loss"])})
            late = time.monotonic() - saved_at > checkpoint_seconds
            if world.from_first(lambda: late) if sharded else late:  # noqa: B023  called at once
                save()
                saved_at = time.monotonic()
    except (KeyboardInterrupt, RuntimeError) as error:
        # Split weights cannot be put together any more: others were interrupted too, or are gone.
        if undivided and not sharded and (isinstance(error, KeyboardInterrupt) or is_lost(error)):
            try:
                save()
            except KeyboardInterrupt:
                if not is_lost(error):
                    raise
                save()  # torchrun stops the processes that are left, and waits for them
        raise
    if final := state["best_weights"] or average:
        model.load_state_dict(final)
    model.eval()
    log: list[dict[str, float]] = state["log"]
    return log


def split(saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A checkpoint as the weights of a sharded model are split."""
    state = saved["state"]
    return {
        **saved,
        "model": sharding.states_split_as(saved["model"], model),
        "optimizer": sharding.optimizer_split_as(saved["optimizer"], optimizer),
        "average": sharding.states_split_as(saved["average"], model),
        "state": {**state, "best_weights": sharding.states_split_as(state["best_weights"], model)},
    }

"""Run a pass that trains in several processes at once; whatever else a run does is done once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from compress.core.settings import InputError
from compress.models.artifact import Model
from compress.passes import Context, Outcome, Pass, unreported
from compress.recipe.plan import Plan
from compress.recipe.recipe import Recipe
from compress.training.loop import OnProgress
from compress.training.processes import train_together
from compress.training.world import World


def check_processes(recipe: Recipe, plan: Plan, processes: int, say: Callable[[str], None]) -> None:
    """Refuse so many processes where a pass cannot share its work equally; say so where none has any use for them.

    Raises:
        InputError: which, and what would be right.
    """
    training = [node for node in plan.nodes if node.setting is not None and node.setting.trains]
    if processes > 1 and not training:
        say(f"--on torchrun:{processes}: no pass of this recipe trains in several processes")
    for node in training:
        assert node.setting is not None
        try:
            node.setting.check_processes(processes)
        except InputError as error:
            raise InputError(f"{recipe.path}: {node.name}: {error}") from error


def run_together(
    setting: Pass[Any, Any], model: Model, context: Context, processes: int, say: Callable[[str], None]
) -> Outcome[Any]:
    """What a pass makes of a model, in so many processes that share this one's threads.

    Raises:
        InputError: the pass cannot do what it is asked, or its processes died again and again.
    """
    threads = max(1, torch.get_num_threads() // processes)
    work = partial(run_one, setting, model, replace(context, report=unreported), threads)
    return train_together(work, processes, context.report, say)


def run_one(
    setting: Pass[Any, Any], model: Model, context: Context, threads: int, world: World, report: OnProgress
) -> Outcome[Any]:
    """What a pass makes, in one of the processes."""
    torch.set_num_threads(threads)
    return setting.run(model, replace(context, report=report, world=world))

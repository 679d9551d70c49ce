"""The preflight: drive the whole chain once on a two-layer copy with a handful of pictures, in seconds.

A failure of step 6 is found before the hours of step 3 are spent, and the time of the real run can be estimated.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.tokens import TokenSet
from compress.core.listener import Listener, step
from compress.core.settings import InputError
from compress.core.store import disk_error, is_full
from compress.models import artifact
from compress.models.artifact import Form
from compress.models.candidate import open_engine
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context
from compress.recipe.plan import Node, Plan
from compress.recipe.recipe import Recipe

LAYERS = 2
PICTURES = 8
BYTES_PER_WEIGHT = 4
# A training pass holds weights, gradients, two AdamW moments, the best weights and the teacher; others hold two copies.
COPIES = 6
# Time to export and measure one step of a small model beyond its pass: sessions, scoring, interleaved rounds.
ROUND_SHARE = 8.0


@dataclass(frozen=True)
class RunCost:
    """What the real run is expected to cost, from the rehearsal; within a factor of about two."""

    rehearsal_seconds: float
    seconds: float
    memory_mib: float
    disk_mib: float

    def words(self) -> str:
        """The estimate in one line."""
        return (
            f"preflight: the whole chain works on a {LAYERS}-layer copy ({self.rehearsal_seconds:.1f} s); the run needs"
            f" about {self.seconds:.0f} s, {self.memory_mib:.0f} MiB of memory, {self.disk_mib:.0f} MiB of disk"
        )


def check_requirements(recipe: Recipe, plan: Plan, model: artifact.Model) -> None:
    """Ask the passes that begin with the untouched model whether they can work on it; it takes no time.

    What reaches the passes behind them is not known yet; the rehearsal asks those, on what its copy became.

    Raises:
        InputError: a pass cannot; the message is that of the pass.
    """
    for node in plan.nodes:
        if node.setting is not None and node.source is plan.reference:
            try:
                with node.setting.named():
                    node.setting.requires(model)
            except InputError as error:
                raise InputError(f"{recipe.path}: {node.name}: {error}") from error


def rehearse(recipe: Recipe, plan: Plan, reference: ImageModel, tokens: TokenSet, listener: Listener) -> RunCost:
    """Run every pass of the plan on a two-layer copy, through artifacts on disk, and score each engine.

    Raises:
        InputError: a pass failed; the message begins with the step's name.
    """
    started = time.monotonic()
    copy = two_layers(reference)
    few = pick_few(tokens)
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, listener.work("preflight") as progress:
        room = Path(name)
        folders = {plan.reference.key: room / "reference"}
        steps = [node for node in plan.nodes if node.source is not None]
        try:
            folders[plan.reference.key].mkdir()
            artifact.save(copy, folders[plan.reference.key])
            for index, node in enumerate(steps):
                progress(index, len(steps), {})
                if node.key in folders:
                    continue
                folders[node.key] = room / str(index)
                folders[node.key].mkdir()
                with step(f"preflight of {node.name}"):
                    times[node.key] = rehearse_step(node, folders, copy, few, recipe.seed, room / f"work{index}")
                    if node.form is not Form.TORCH:
                        try_engine(node, folders[node.key], few, copy)
            progress(len(steps), len(steps), {})
        except Exception as error:
            if is_full(error):
                raise disk_error(error, room) from error
            raise
    elapsed = time.monotonic() - started
    depth = len(reference.transformer.config.layers) / LAYERS
    real = sum(seconds * depth for seconds in times.values()) + ROUND_SHARE * recipe.bench.repeats * len(times) / 6
    weights = reference.parameters() * BYTES_PER_WEIGHT / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return RunCost(elapsed, real, peak + COPIES * weights, 2 * weights * len(plan.nodes))


def rehearse_step(
    node: Node, folders: dict[str, Path], copy: ImageModel, few: TokenSet, seed: int, workspace: Path
) -> float:
    """Do a little of one step's work; the seconds that the real step would take on the copy."""
    assert node.source is not None
    assert node.setting is not None
    workspace.mkdir()
    context = Context(copy, few, calibration=len(few.part("train")), seed=seed, workspace=workspace)
    lighter, ratio = node.setting.rehearsal()
    before = time.monotonic()
    try:
        outcome = lighter.run(artifact.load(folders[node.source.key], node.source.form), context)
    except InputError as error:
        raise InputError(f"preflight: {node.name}: {error}") from error
    seconds = (time.monotonic() - before) * ratio
    artifact.save(outcome.model, folders[node.key])
    return seconds


def try_engine(node: Node, folder: Path, few: TokenSet, copy: ImageModel) -> None:
    """Load what an engine's step wrote and score two pictures with it."""
    batch = examples(copy.shape, few).take(slice(2))
    try:
        logits = open_engine(folder, threads=1).score(batch.inputs, batch.features)
    except InputError as error:
        raise InputError(f"preflight: {node.name}: {error}") from error
    if not np.isfinite(logits).all():
        raise InputError(f"preflight: {node.name}: the engine's logits hold NaN or Inf")


def two_layers(reference: ImageModel) -> ImageModel:
    """The reference's first layers with its embedding and head."""
    config = reference.transformer.config
    if len(config.layers) <= LAYERS:
        return reference
    copy = TokenTransformer(config.with_layers(config.layers[:LAYERS]))
    state = reference.transformer.state_dict()
    copy.load_state_dict({name: state[name] for name in copy.state_dict()})
    return reference.with_transformer(copy.eval())


def pick_few(tokens: TokenSet) -> TokenSet:
    """A handful of pictures of each part."""
    chosen = [np.flatnonzero(tokens.parts == part)[:PICTURES] for part in np.unique(tokens.parts)]
    return tokens.take(np.concatenate(chosen))

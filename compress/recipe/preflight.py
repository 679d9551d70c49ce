"""The preflight: drive the whole chain once on a two-layer copy with a handful of pictures, in seconds.

A failure of step 6 is found before the hours of step 3 are spent, and the time of the real run can be estimated.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.tokens import TokenSet
from compress.core.listener import Listener, step
from compress.core.memory import give_back, resident_mib, watched
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
from export.runtime.drawing import conditions

LAYERS = 2
PICTURES = 32  # of each part: as many as passes and measures have in memory at once
BYTES_PER_WEIGHT = 4
MIB = 2**20
GRAPH_COPIES = 4  # of the weights, while a graph is written: in PyTorch, in the graph, as its bytes, in a session
SCORED_SIDES = 3  # whose logits are kept at once: the reference's, a step's and those of the step before
# Time to export and measure one step of a small model beyond its pass: sessions, scoring, interleaved rounds.
ROUND_SHARE = 8.0


@dataclass(frozen=True)
class RunCost:
    """What the real run is expected to cost, from the rehearsal.

    Memory is within a factor of 1.5 on the recipes that were tried; decoding pictures is not rehearsed. Seconds are a
    hint: they depend on what else the machine does.
    """

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


@dataclass
class Needs:
    """Memory that a rehearsal saw, MiB: how far each step of the chain rose, on copies of so many layers."""

    rises: dict[int, dict[str, float]]
    sessions: dict[str, float]  # what opening an engine and scoring with it took
    held: float = 0.0  # by the process itself, with all its libraries

    def rise(self, layers: int) -> float:
        """The largest rise of a step on a model of so many layers: a straight line through the two copies."""
        most = max(self.rises)
        deep, shallow = self.rises[most], self.rises[min(self.rises)]
        return max(
            (rise + max(0.0, rise - shallow.get(key, rise)) * (layers - most) for key, rise in deep.items()),
            default=0.0,
        )


def rehearse(recipe: Recipe, plan: Plan, reference: ImageModel, tokens: TokenSet, listener: Listener) -> RunCost:
    """Run every pass of the plan on a two-layer copy, through artifacts on disk, and score each engine.

    Passes in PyTorch run on a copy of one layer too, from which follows what each further layer takes.

    Raises:
        InputError: a pass failed; the message begins with the step's name.
    """
    started = time.monotonic()
    few = pick_few(tokens)
    needs = Needs({}, {})
    copy = first_layers(reference, LAYERS)
    steps = [node for node in plan.nodes if node.source is not None]
    in_torch = [node for node in steps if node.form is Form.TORCH] if copy is not reference else []
    with tempfile.TemporaryDirectory() as name, listener.work("preflight") as progress:
        room, total = Path(name), len(steps) + len(in_torch)
        try:
            times = drive(recipe, plan, steps, copy, few, room / "two", needs, lambda at: progress(at, total, {}))
            needs.held = resident_mib()
            if in_torch:
                shallow = first_layers(reference, 1)
                drive(
                    recipe, plan, in_torch, shallow, few, room / "one", needs,
                    lambda at: progress(len(steps) + at, total, {}),
                )  # fmt: skip
            progress(total, total, {})
        except Exception as error:
            if is_full(error):
                raise disk_error(error, room) from error
            raise
    elapsed = time.monotonic() - started
    depth = len(reference.transformer.config.layers) / LAYERS
    real = sum(seconds * depth for seconds in times.values()) + ROUND_SHARE * recipe.bench.repeats * len(times) / 6
    weights = reference.parameters() * BYTES_PER_WEIGHT / MIB
    return RunCost(elapsed, real, memory(recipe, plan, reference, tokens, needs), 2 * weights * len(plan.nodes))


def drive(
    recipe: Recipe,
    plan: Plan,
    steps: list[Node],
    copy: ImageModel,
    few: TokenSet,
    room: Path,
    needs: Needs,
    progress: Callable[[int], None],
) -> dict[str, float]:
    """Run these steps on a copy of the reference; the seconds that each would really take on it, by the step's key."""
    rises = needs.rises.setdefault(len(copy.transformer.config.layers), {})
    folders = {plan.reference.key: room / "reference"}
    folders[plan.reference.key].mkdir(parents=True)
    artifact.save(copy, folders[plan.reference.key])
    times: dict[str, float] = {}
    for index, node in enumerate(steps):
        progress(index)
        if node.key in folders:
            continue
        folders[node.key] = room / str(index)
        folders[node.key].mkdir()
        with step(f"preflight of {node.name}"):
            with watched() as growth:
                times[node.key] = rehearse_step(node, folders, copy, few, recipe.seed, room / f"work{index}")
            if node.form is Form.TORCH:
                rises[node.key] = growth.mib
            else:
                with watched() as growth:
                    try_engine(node, folders[node.key], few, copy)
                needs.sessions[node.key] = growth.mib
    give_back()
    return times


def memory(recipe: Recipe, plan: Plan, reference: ImageModel, tokens: TokenSet, needs: Needs) -> float:
    """Memory that the run is expected to take at its peak, MiB."""
    config, shape = reference.transformer.config, reference.shape
    layers = len(config.layers)
    weights = reference.parameters() * BYTES_PER_WEIGHT / MIB
    beyond = weights * (1 - LAYERS / layers) if layers > LAYERS else 0.0  # of the layers that the copy lacks
    drawn = sum(2 * layer.kv_heads * config.head_width for layer in config.layers) * BYTES_PER_WEIGHT / MIB
    caches = 0.0 if shape.drawing.masks else drawn * shape.reach * PICTURES
    # Three engines are open at once: the reference's, a step's and that of the step before. One of them scores.
    engines = weights * min(3, len(plan.nodes))
    scoring = max(needs.sessions.values(), default=0.0) + beyond + caches
    logits = min(len(tokens.part("held_out")), recipe.tokens.held_out) * shape.length * shape.predicted
    scores = SCORED_SIDES * logits * BYTES_PER_WEIGHT / MIB
    kept = max(
        (node.setting.keeps(reference, tokens, recipe.tokens.calibration) / MIB for node in plan.nodes if node.setting),
        default=0.0,
    )
    # Eager drawing: guidance doubles the rows, and a step's cache is made beside the one before it.
    passing = max(needs.rise(layers) + kept, GRAPH_COPIES * weights, 2 * 2 * caches, scoring)
    return needs.held + engines + scores + passing


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
    """Load what an engine's step wrote and score a few pictures; draw where a step of drawing reads whole pictures."""
    batch = examples(copy.shape, few).take(slice(PICTURES))
    try:
        engine = open_engine(folder, threads=1)
        logits = engine.score(batch.inputs, batch.features)
        if copy.shape.drawing.masks:  # with guidance twice as many rows as are scored
            labels, features = conditions(copy.shape, PICTURES)
            engine.draw_tokens(labels, sampler=engine.sampler.changed(steps=1), features=features)
    except InputError as error:
        raise InputError(f"preflight: {node.name}: {error}") from error
    if not np.isfinite(logits).all():
        raise InputError(f"preflight: {node.name}: the engine's logits hold NaN or Inf")


def first_layers(reference: ImageModel, count: int) -> ImageModel:
    """The reference's first layers with its embedding and head; itself where it has no more."""
    config = reference.transformer.config
    if len(config.layers) <= count:
        return reference
    copy = TokenTransformer(config.with_layers(config.layers[:count]))
    state = reference.transformer.state_dict()
    copy.load_state_dict({name: state[name] for name in copy.state_dict()})
    return reference.with_transformer(copy.eval())


def pick_few(tokens: TokenSet) -> TokenSet:
    """A handful of pictures of each part."""
    chosen = [np.flatnonzero(tokens.parts == part)[:PICTURES] for part in np.unique(tokens.parts)]
    return tokens.take(np.concatenate(chosen))

"""What all trials of a search work with: the reference with its scores and its engine, the pictures, the store."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compress.core.lease import working
from compress.core.listener import Listener, Silent
from compress.core.settings import InputError, digest
from compress.core.store import Entry, Store
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.recipe import plan as plans
from compress.recipe.plan import Node
from compress.recipe.preflight import LAYERS, Needs, drive, first_layers, pick_few
from compress.recipe.recipe import Recipe
from compress.recipe.verdict import no_evidence
from compress.running.measurements import Measuring
from compress.running.pipeline import Run, load_reference
from compress.searching.goal import Goal
from compress.searching.recipes import recipe_of
from compress.searching.space import Space

FEW = 32  # pictures of a first look at drift: as many as are scored at once


class Workshop:
    """What all trials of a search work with: the reference with its scores and its engine, the pictures, the store."""

    def __init__(self, space: Space, base: Recipe, goal: Goal, store: Store, output: Path, listener: Listener) -> None:
        """Read the reference, make its plain export, and see that its predictions can show drift; under `working`.

        Raises:
            InputError: an input is wrong, the model is a graph, or no drift could show.
        """
        if base.form is not Form.TORCH:
            raise InputError(f"{space.path}: model: is an ONNX graph; a search tries passes of a model in PyTorch")
        self.space, self.store, self.output, self.listener = space, store, output, listener
        torch.set_num_threads(base.bench.threads)
        self.tokens = plans.load_tokens(base)
        self.reference: ImageModel = load_reference(base, self.tokens)
        self.rehearsed: set[str] = set()
        self.first, self.first_few = self.measuring(base), self.measuring(base, few=True)
        own = self.first.plan.reference
        self.reference_bytes = self.first.making.make(self.first.making.deployed(own)).size_bytes
        self.goal = goal.sized(self.reference_bytes)
        if (gate := self.goal.gate) is not None and gate.judges_drift:
            found = self.first.evidence()
            if not found.sound:
                raise InputError(f"{space.path}: {no_evidence(found, 'the reference').text}")

    @property
    def identity(self) -> tuple[str, str]:
        """The reference by its content, and the pictures."""
        return self.first.plan.reference.key, self.tokens.fingerprint()

    def run(self, recipe: Recipe, say: Listener | None = None) -> Run:
        """A run of a recipe, which makes and measures what is asked of it."""
        plan = plans.make_plan(recipe, self.tokens)
        return Run(recipe, self.store, self.output, say or self.listener, self.tokens, self.reference, plan)

    def claim(self, picked: Mapping[str, Any]) -> None:
        """Let the store know which artifacts a trial needs, until the search ends; of what is no recipe, none."""
        with suppress(InputError):
            self.store.begin(self.space.path, self.run(recipe_of(self.space, picked)).making.keys())

    def engine_of(self, picked: Mapping[str, Any]) -> tuple[Run, Entry]:
        """The engine of a trial, from the store or made again, and the run that makes it; under `working`."""
        run = self.run(recipe_of(self.space, picked), Silent())
        ((_, chain),) = run.plan.engines.items()
        return run, run.making.make(chain[-1])

    def measuring(self, recipe: Recipe, *, few: bool = False) -> Measuring:
        """What measures a recipe's models, on all of its held-out pictures or on a few."""
        if few:
            count = min(FEW, recipe.tokens.held_out)
            recipe = replace(recipe, tokens=replace(recipe.tokens, held_out=count))
        return self.run(recipe, Silent() if few else None).measuring

    def share_reference(self, made: Measuring, first: Measuring) -> Measuring:
        """Let a trial use the reference's scores and engine of the first one."""
        key = first.plan.reference.key
        made.sides[key] = first.side(first.plan.reference)
        deployed = first.making.deployed(first.plan.reference).key
        if deployed in first.making.engines:
            made.making.engines[deployed] = first.making.engines[deployed]
        return made

    def rehearse(self, recipe: Recipe, nodes: Sequence[Node], run: Run) -> None:
        """Rehearse the chain on a two-layer copy where a step of `nodes` was not rehearsed with its settings before.

        Raises:
            InputError: the chain does not work.
        """
        settings = {digest(node.made_by["pass"], node.made_by["settings"]) for node in nodes}
        if settings <= self.rehearsed:
            return
        steps = [node for node in run.plan.nodes if node.source is not None]
        copy = first_layers(self.reference, LAYERS)
        with tempfile.TemporaryDirectory() as room, self.listener.work("preflight") as progress, working():
            drive(recipe, run.plan, steps, copy, pick_few(self.tokens), Path(room) / "two", Needs({}, {}),
                  lambda at: progress(at, len(steps), {}))  # fmt: skip
        self.rehearsed |= settings

"""Find or make each artifact of a recipe, and open the engines that stand for them; nothing is made twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from calibration.tokens import TokenSet
from compress.core.listener import Listener, step
from compress.core.memory import give_back
from compress.core.settings import InputError, digest
from compress.core.store import Entry, Store
from compress.models import artifact
from compress.models.adopted import AdoptedModel
from compress.models.artifact import Form
from compress.models.candidate import open_engine
from compress.models.image_model import ImageModel
from compress.passes import Context
from compress.recipe import plan as plans
from compress.recipe.plan import Node, Plan
from compress.recipe.recipe import Recipe, Step
from compress.running.taught import run_together
from export.runtime.engine import Engine


class Making:
    """What a run made and opened so far."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        listener: Listener,
        tokens: TokenSet,
        reference: ImageModel | AdoptedModel,
        plan: Plan,
        processes: int = 1,
    ) -> None:
        self.processes = processes  # that passes train with
        self.recipe, self.store, self.listener = recipe, store, listener
        self.tokens, self.reference, self.plan = tokens, reference, plan
        self.tokens_key = digest(tokens.fingerprint(), recipe.tokens.calibration)
        self.entries: dict[str, Entry] = {}
        self.engines: dict[str, Engine] = {}
        self.told: set[str] = set()  # keys of which others said that they were made or reused

    def keys(self) -> list[str]:
        """The keys of all artifacts of the plan, and of the engines that stand for its steps."""
        nodes = [node for node in self.plan.nodes if node.source or node.form is not Form.TORCH]
        return list(dict.fromkeys(node.key for node in (*nodes, *map(self.deployed, self.plan.nodes))))

    def make(self, node: Node) -> Entry:
        """The node's artifact, from the store or made now (a reference that is a graph was made first of all)."""
        if node.key in self.entries:
            return self.entries[node.key]
        if node.source is None and (entry := self.store.find(node.key)) is not None:  # made, and held, at the beginning
            return self.entries.setdefault(node.key, entry)
        assert node.source is not None
        assert node.setting is not None
        source, setting = node.source, node.setting

        def write(folder: Path) -> dict[str, Any]:
            model = self.model(source)  # may make what comes before, with messages and progress of its own
            with self.listener.work(self.place(node) + node.name) as progress:
                context = Context(
                    reference=self.reference,  # type: ignore[arg-type]  # only torch passes read it, and only of torch
                    tokens=self.tokens,
                    calibration=self.recipe.tokens.calibration,
                    seed=self.recipe.seed,
                    workspace=self.store.workspace(node.key),
                    report=progress,
                )
                try:
                    if setting.trains and self.processes > 1:
                        outcome = run_together(setting, model, context, self.processes, self.listener.say)
                    else:
                        outcome = setting.run(model, context)
                except InputError as error:
                    raise InputError(f"{self.recipe.path}: {node.name}: {error}") from error
            artifact.save(outcome.model, folder)
            notes = outcome.notes.written()
            del model, outcome
            give_back()
            return notes

        with step(node.name):
            entry, reused = self.store.make(node.key, node.made_by, write, self.listener.say)
        if not (reused and node.key in self.told):
            self.listener.say(f"{self.place(node)}{node.name}: {'reused' if reused else 'made'} {node.key[:12]}")
        self.entries[node.key] = entry
        return entry

    def place(self, node: Node) -> str:
        """Which step of the recipe a node is; empty for what only stands for one, such as an engine to time it with."""
        keys = list(dict.fromkeys(each.key for each in self.plan.nodes if each.source is not None))
        return f"step {keys.index(node.key) + 1} of {len(keys)}: " if node.key in keys else ""

    def model(self, node: Node) -> artifact.Model:
        """The node's model, read from the store (the reference: from its checkpoint)."""
        if node.source is None and isinstance(self.reference, ImageModel):
            return self.reference
        return artifact.load(self.make(node).folder, node.form)

    def deployed(self, node: Node) -> Node:
        """The node whose engine stands for this one's speed: a TORCH node is lowered through the plain export first."""
        if node.form is not Form.TORCH:
            return node
        from compress.passes.export import Export

        step = Step("export", Export(target="onnxruntime"), None)
        return plans.next_node(node, f"{node.name} lowered", step, self.recipe.seed, self.tokens_key)

    def engine(self, node: Node) -> Engine:
        """The engine that stands for a node, loaded."""
        lowered = self.deployed(node)
        if lowered.key not in self.engines:
            self.engines[lowered.key] = open_engine(self.make(lowered).folder, self.recipe.bench.threads)
        return self.engines[lowered.key]

    def close_engines(self, but: Iterable[Node]) -> None:
        """Close all engines but those that stand for these nodes; one that is wanted again is opened again."""
        kept = {self.deployed(node).key for node in but}
        self.engines = {key: engine for key, engine in self.engines.items() if key in kept}

"""Measure how far each step of a run drifts from the reference; what was measured once is stored.

Letters: N pictures, n of them at once, T tokens of a picture, V logits of a position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, digest, parse, plain
from compress.measure.drift.coupled import Coupled, coupled
from compress.measure.drift.evidence import Evidence, evidence
from compress.measure.drift.fidelity import Fidelity, fidelity
from compress.measure.drift.floor import Floor, bf16_logits, in_bf16
from compress.measure.drift.layers import Layer, States, layers, states_of
from compress.measure.drift.sampled import Pair, Sampled, sampled
from compress.measure.speed.environment import environment
from compress.models.artifact import Form
from compress.models.candidate import Candidate
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples, asked, examples
from compress.recipe.plan import Node
from compress.running.artifacts import Making
from export.runtime.drawing import conditions

STEPWISE_PICTURES = 8
DRAWN_PICTURES = 64  # that a reference draws, of models whose pictures no classifier looks at
AT_ONCE = 16
LAYER_PICTURES = 8
LAYER_NUMBERS = 2**26  # of all streams of a model, 256 MB
SAMPLED_LOGITS = 2**27  # of the class and of no class each, 512 MB: more pictures are not looked at after guidance
MEASURED_BY = 5  # goes up when a measurement changes its meaning, so stored ones are not reused


class Drifting:
    """The drift of a run's steps, from scores and pictures that are made once."""

    def __init__(self, making: Making) -> None:
        self.making, self.recipe, self.store, self.listener = making, making.recipe, making.store, making.listener
        self.reference, self.plan = making.reference, making.plan
        self.held_out = making.tokens.part("held_out", self.recipe.tokens.held_out)
        self.asked = examples(self.reference.shape, self.held_out, self.recipe.seed)
        self.scores: dict[str, NDArray[np.float32]] = {}
        self.null_scores: dict[int, NDArray[np.float32]] = {}

    def remembered(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The store's measurement of this key, or a new one."""
        return self.store.measurement(key, measure, self.listener.say)

    def score(self, node: Node) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, V) of the held-out pictures, in the node's own form."""
        if node.key not in self.scores:
            scores = self.candidate(node).score(self.asked.inputs, self.asked.features)
            if not np.isfinite(scores).all():
                raise InputError(f"{self.recipe.path}: {node.name}: its logits hold NaN or Inf, so it cannot be judged")
            self.scores[node.key] = scores
        return self.scores[node.key]

    def fidelity(self, node: Node, other: Node) -> Fidelity:
        """Drift of a node from another one."""
        # The seed decides which positions a masked model is asked for, and the resampling.
        key = digest("fidelity", MEASURED_BY, node.key, other.key, self.held_out.fingerprint(), self.recipe.seed)

        def measure() -> dict[str, Any]:
            return plain(self.compared(self.score(other), self.score(node), self.asked))

        return parse(Fidelity, self.remembered(key, measure), "stored fidelity")

    def compared(self, reference: NDArray[np.float32], candidate: NDArray[np.float32], asked: Examples) -> Fidelity:
        """Drift between two sets of logits (N, T, V)."""
        seed, shape = self.recipe.seed, self.reference.shape
        return fidelity(
            reference, candidate, asked.targets, seed, asked.scored, shape, math.prod(self.reference.picture)
        )

    def candidate(self, node: Node) -> Candidate:
        """The node's model, in its own form."""
        return self.making.model(node) if node.form is Form.TORCH else self.making.engine(node)  # type: ignore[return-value]

    def fidelity_drawn(self, node: Node) -> Fidelity:
        """Drift from the reference on pictures that the reference drew: where the engine will be at work."""
        key = digest("fidelity drawn", MEASURED_BY, node.key, self.plan.reference.key, self.samples, self.recipe.seed)

        def measure() -> dict[str, Any]:
            asked = self.asked_of_drawn
            own = self.candidate(node).score(asked.inputs, asked.features)
            return plain(self.compared(self.reference_on_drawn, own, asked))

        return parse(Fidelity, self.remembered(key, measure), "stored fidelity on drawn pictures")

    @property
    def samples(self) -> int:
        """Pictures that are drawn to be looked at."""
        classified = self.recipe.tokens.source == "digits"
        return self.recipe.bench.samples if classified else min(self.recipe.bench.samples, DRAWN_PICTURES)

    @cached_property
    def asked_of_drawn(self) -> Examples:
        """The pictures that the reference drew, as teacher-forced examples."""
        labels, features = self.conditions(self.samples)
        return asked(self.reference.shape, self.drawn(self.plan.reference), labels, self.recipe.seed, features)

    @cached_property
    def reference_on_drawn(self) -> NDArray[np.float32]:
        """The reference's own logits (N, T, V) of these."""
        return self.reference.score(self.asked_of_drawn.inputs, self.asked_of_drawn.features)

    def drawn(self, node: Node, other_seed: int = 0) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures that a node draws, each class in turn, with the recipe's seed or one behind it."""
        labels, features = self.conditions(self.samples)
        seed = self.recipe.seed + other_seed
        drawer: Candidate = self.reference if node is self.plan.reference else self.candidate(node)

        def draw() -> dict[str, Any]:
            parts = []
            with self.listener.work(f"draw {len(labels)} pictures with {node.name}") as progress:
                for start in range(0, len(labels), AT_ONCE):
                    progress(start, len(labels), {})
                    rows = slice(start, start + AT_ONCE)
                    text = None if features is None else features[rows]
                    parts.append(drawer.draw_tokens(labels[rows], seed, features=text, first=start))
            return {"tokens": np.concatenate(parts).tolist()}

        key = digest("drawn", MEASURED_BY, node.key, len(labels), seed, self.held_out.fingerprint())
        return np.array(self.remembered(key, draw)["tokens"], dtype=np.int64)

    def coupled(self, node: Node) -> Coupled:
        """What an engine draws against what the reference draws with the same noise."""
        return coupled(self.drawn(self.plan.reference), self.drawn(node), self.recipe.seed)

    def sampled(self, node: Node) -> Sampled:
        """Drift of what is drawn from, with the reference's own sampler."""
        key = digest(
            "sampled", MEASURED_BY, node.key, self.plan.reference.key, self.held_out.fingerprint(), self.recipe.seed
        )

        def measure() -> dict[str, Any]:
            return plain(self.drawn_from(lambda rows, guided: self.pair(node, rows, guided)))

        return parse(Sampled, self.remembered(key, measure), "stored drift of what is drawn from")

    def drawn_from(self, own: Callable[[slice, bool], Pair]) -> Sampled:
        """Drift of what is drawn from, by the logits (n, T, V) that `own` gives of rows (and of no class)."""
        shape, sampler, asked = self.reference.shape, self.reference.sampler, self.asked
        count = max(2, min(len(asked), SAMPLED_LOGITS // (shape.length * shape.predicted)))

        def chunks() -> Iterator[tuple[Pair, Pair, NDArray[np.bool_]]]:
            for start in range(0, count, AT_ONCE):
                rows = slice(start, min(start + AT_ONCE, count))
                theirs = self.pair(self.plan.reference, rows, sampler.guided)
                yield theirs, own(rows, sampler.guided), asked.scored[rows]

        return sampled(chunks(), shape, sampler, self.recipe.seed)

    def pair(self, node: Node, rows: slice, guided: bool) -> Pair:
        """Logits (n, T, V) of some held-out pictures, and the same as of no class if the sampler is guided."""
        return self.score(node)[rows], self.null_score(node, rows) if guided else None

    def null_score(self, node: Node, rows: slice) -> NDArray[np.float32]:
        """Logits (n, T, V) of some held-out pictures as of no class; the reference's are kept."""
        place = rows.start
        if node is self.plan.reference and place in self.null_scores:
            return self.null_scores[place]
        few = self.asked.take(rows).of_no_class(self.reference.shape)
        made = self.candidate(node).score(few.inputs, few.features)
        if node is self.plan.reference:
            self.null_scores[place] = made
        return made

    def floor(self) -> Floor | None:
        """How far the reference drifts from itself in another runtime and in bf16."""
        node = self.plan.reference
        if node.form is not Form.TORCH:
            return None
        assert isinstance(self.reference, ImageModel)
        reference, asked = self.reference, self.asked

        def measure() -> dict[str, Any]:
            deployed, rough = self.making.deployed(node), in_bf16(reference)
            exported = self.making.engine(deployed).score(asked.inputs, asked.features)
            in_rough = bf16_logits(rough, asked)

            def pair(rows: slice, guided: bool) -> Pair:
                few = asked.take(rows).of_no_class(reference.shape)
                return in_rough[rows], bf16_logits(rough, few) if guided else None

            return plain(
                Floor(
                    runtime=self.compared(self.score(node), exported, asked),
                    bf16=self.compared(self.score(node), in_rough, asked),
                    sampled=self.drawn_from(pair),
                    coupled=self.coupled(deployed),
                    layers=layers(self.streams, states_of(rough, self.asked_of_layers)) if self.streams else (),
                )
            )

        held_out, seed = self.held_out.fingerprint(), self.recipe.seed
        key = digest("floor", MEASURED_BY, node.key, held_out, seed, plain(environment()))
        return parse(Floor, self.remembered(key, measure), "stored noise floor")

    def layers(self, node: Node) -> tuple[Layer, ...]:
        """The stream behind every layer against that of the reference; layers that were pruned have none.

        Empty where one of the two does not show its streams.
        """

        def measure() -> dict[str, Any]:
            try:
                own = states_of(self.candidate(node), self.asked_of_layers)
                return {"layers": plain(layers(self.streams, own, self.kept(node)) if self.streams else ())}
            except ValueError:
                return {"layers": []}

        held_out, origin = self.held_out.fingerprint(), self.plan.reference.key
        key = digest("layers", MEASURED_BY, node.key, origin, held_out, self.recipe.seed)
        return tuple(parse(Layer, each, "stored layers") for each in self.remembered(key, measure)["layers"])

    @cached_property
    def streams(self) -> States:
        """The reference's streams (N, S, D), layer by layer; none where it does not show them."""
        try:
            return states_of(self.reference, self.asked_of_layers)
        except ValueError:
            return []

    @cached_property
    def asked_of_layers(self) -> Examples:
        """The few pictures whose streams are compared."""
        pictures = LAYER_PICTURES
        if isinstance(self.reference, ImageModel):
            config = self.reference.transformer.config
            one = self.asked.inputs.shape[1] * config.width * (len(config.layers) + 1)
            pictures = max(1, min(pictures, LAYER_NUMBERS // one))
        return self.asked.take(slice(pictures))

    def kept(self, node: Node) -> list[int] | None:
        """The reference's layers that are left behind the passes up to a node; None if all are."""
        if node.source is None:
            return None
        left, notes = self.kept(node.source), self.making.make(node).notes
        if "removed_layers" not in notes:
            return left
        before = list(range(notes["of"])) if left is None else left
        return [layer for place, layer in enumerate(before) if place not in notes["removed_layers"]]

    def evidence(self) -> Evidence:
        """Whether the reference's predictions of the held-out pictures can show drift at all."""
        key = digest("evidence", MEASURED_BY, self.plan.reference.key, self.held_out.fingerprint(), self.recipe.seed)
        return parse(
            Evidence,
            self.remembered(key, lambda: plain(evidence(self.score(self.plan.reference), self.asked.scored))),
            "stored evidence",
        )

    def cached_loop(self, node: Node) -> dict[str, float]:
        """Drift of the cached loop from one call for all tokens: bugs of the KV cache show only there."""

        def measure() -> dict[str, Any]:
            few, engine = self.asked.take(slice(STEPWISE_PICTURES)), self.making.engine(node)
            stepwise = engine.score_stepwise(few.inputs, few.features)
            drift = self.compared(self.score(node)[: len(few)], stepwise, few)
            return {"kl": drift.kl, "max_abs_difference": drift.max_abs_difference}

        return self.remembered(
            digest("cached loop", MEASURED_BY, node.key, self.held_out.fingerprint(), self.recipe.seed), measure
        )

    def conditions(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Classes, each in turn, or the features of the held-out pictures' texts."""
        labels, features = conditions(self.reference.shape, count)
        if features is not None and self.held_out.features is not None:
            features = self.held_out.features[np.arange(count) % len(self.held_out)]
        return labels, features

"""What a measure is given: a candidate, its reference, and the pictures, seed and settings that both are given.

Letters: N pictures, n of them at once, T tokens of a picture, V logits of a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress.core.listener import Listener, Silent
from compress.core.settings import InputError, digest, plain
from compress.measure.slices import Slice, slices
from compress.measure.speed.environment import environment
from compress.models.candidate import Candidate
from compress.models.guided import Guided
from compress.models.transformer.examples import Examples, examples_of
from export.runtime.drawing import conditions
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

if TYPE_CHECKING:
    from compress.core.store import Store
    from export.runtime.engine import Engine

AT_ONCE = 32
DRAWN_VERSION = 6  # goes up when models draw other pictures, with the versions of the measures that look at them
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Given:
    """What every model of a comparison is given."""

    shape: Shape  # of the reference: tokens, classes and order of drawing
    picture: tuple[int, int, int]
    examples: Examples  # the pictures that are scored
    seed: int
    samples: int  # pictures that are drawn
    source: str = ""  # where the pictures come from, as in a recipe's tokens
    fingerprint: str = ""  # of the held-out pictures
    tokens: TokenSet | None = None  # all parts of the source, where it has some
    texts: NDArray[np.float32] | None = None  # features of the held-out pictures' texts
    threads: int = 1
    repeats: int = 20  # rounds of a paired timing
    batch: int = 1  # pictures drawn at once where time is measured
    inception: str = ""  # weights of InceptionV3
    store: Store | None = None  # where results are kept, if anywhere
    listener: Listener = field(default_factory=Silent)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def scored(self) -> tuple[Any, ...]:
        """What scores depend on: the seed decides which positions a masked model is asked for, and the resampling."""
        return self.fingerprint, self.seed

    @property
    def drawn(self) -> tuple[Any, ...]:
        """What drawn pictures depend on."""
        return self.samples, self.seed

    @property
    def timed(self) -> tuple[Any, ...]:
        """What times depend on."""
        return self.threads, self.repeats, plain(environment())

    @property
    def everything(self) -> tuple[Any, ...]:
        """All that a result may depend on besides the models."""
        return *self.scored, *self.drawn, *self.timed, self.batch, self.source, self.inception

    def conditions(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Classes, each in turn, or the features of the held-out pictures' texts."""
        labels, features = conditions(self.shape, count)
        if features is not None and self.texts is not None:
            features = self.texts[np.arange(count) % len(self.texts)]
        return labels, features

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What measures share, such as a classifier: made for the first that wants it, kept for the others."""
        if name not in self.made:
            self.made[name] = make()
        made: Made = self.made[name]
        return made


class Side:
    """One model of a comparison, with what was made with it once: its scores and its pictures."""

    def __init__(self, name: str, given: Given, model: Candidate, key: str = "") -> None:
        self.name, self.given, self.key = name, given, key
        self.opened, self.place = model, name
        self.null_scores: dict[int, NDArray[np.float32]] = {}
        self.guided: dict[Sampler, GuidedSide] = {}
        self.answers: dict[Slice, NDArray[Any]] = {}  # what workers did, until it is taken

    @property
    def model(self) -> Candidate:
        """The model; hold it while it is used, it may be opened anew each time."""
        return self.opened

    @property
    def engine(self) -> Engine | None:
        """The engine that it is deployed as; None of a model in PyTorch."""
        found: Any = getattr(self.model, "engine", self.model)  # a model that was a graph from the beginning has one
        return found if hasattr(found, "manifest") else None

    @property
    def rounds_inputs(self) -> bool:
        """Whether that engine's products round their inputs."""
        return (engine := self.engine) is not None and engine.manifest.rounds_inputs

    @property
    def unrounded(self) -> Side | None:
        """The model it was before its products rounded their inputs, where that is known; None where they do not."""
        return None

    @property
    def folder(self) -> Path | None:
        """The folder of that engine."""
        return None if (engine := self.engine) is None else engine.folder

    @property
    def exported(self) -> Side:
        """What stands for it where graphs are compared: in a run the plain export of a model in PyTorch."""
        return self

    @property
    def kept_layers(self) -> list[int] | None:
        """The reference's layers that it still has; None if all."""
        return None

    def of_slices(self, parts: Sequence[Slice]) -> Iterator[NDArray[Any]]:
        """What the model does with each slice, in their order: what workers did, or what it does now."""
        model = None
        for part in parts:
            if (found := self.answers.pop(part, None)) is None:
                model = self.model if model is None else model
                found = part.done(model, self.given)
            yield found

    def score(self, examples: Examples) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, V).

        Raises:
            InputError: they are not all numbers.
        """
        return self.checked(self.model.score(examples.inputs, examples.features))

    def checked(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits that are all numbers.

        Raises:
            InputError: they are not.
        """
        if not np.isfinite(scores).all():
            raise InputError(f"{self.place}: its logits hold NaN or Inf, so it cannot be judged")
        return scores

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """Those of the pictures that are scored."""
        parts = slices("scored", len(self.given.examples), AT_ONCE)
        return self.checked(np.concatenate(list(self.of_slices(parts))))

    def unconditional(self, rows: slice) -> NDArray[np.float32]:
        """Unconditional logits (n, T, V) of some of these pictures; kept, as every candidate is held against them."""
        if rows.start not in self.null_scores:
            (found,) = self.of_slices([Slice("unconditional", rows.start, rows.stop - rows.start)])
            self.null_scores[rows.start] = self.checked(found)
        return self.null_scores[rows.start]

    def drawn(self, other_seed: int = 0) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures that it draws, each class in turn, with the given seed or one behind it."""
        given, seed = self.given, self.given.seed + other_seed

        def draw() -> dict[str, Any]:
            parts, made = slices("drawn", given.samples, AT_ONCE, other_seed), []
            with given.listener.work(f"draw {given.samples} pictures with {self.name}") as progress:
                progress(0, given.samples, {})
                for part, tokens in zip(parts, self.of_slices(parts), strict=True):
                    made.append(tokens)
                    progress(part.first + part.count, given.samples, {})
            return {"tokens": np.concatenate(made).tolist()}

        if given.store is None:
            tokens = given.once(f"drawn by {id(self)} with {seed}", draw)["tokens"]
        else:
            key = digest("drawn", DRAWN_VERSION, self.key, given.samples, seed, given.fingerprint)
            tokens = given.store.measurement(key, draw, given.listener.say)["tokens"]
        return np.array(tokens, dtype=np.int64)

    @cached_property
    def examples_of_drawn(self) -> Examples:
        """The pictures that it drew, as teacher-forced examples."""
        labels, features = self.given.conditions(self.given.samples)
        return examples_of(self.given.shape, self.drawn(), labels, self.given.seed, features)

    @cached_property
    def scores_of_drawn(self) -> NDArray[np.float32]:
        """Its own logits (N, T, V) of these."""
        return self.score(self.examples_of_drawn)

    def forget(self) -> None:
        """Let go of the scores, which are the largest of what is kept; they are made again where they are needed."""
        for name in ("scores", "scores_of_drawn"):
            self.__dict__.pop(name, None)
        self.null_scores.clear()
        for guided in self.guided.values():
            guided.forget()


class GuidedSide(Side):
    """A model with its guidance applied, beside one of which guidance is inside."""

    def __init__(self, unguided: Side, sampler: Sampler) -> None:
        self.unguided, self.sampler = unguided, sampler
        key = digest("guided", unguided.key, plain(sampler)) if unguided.key else ""
        super().__init__(unguided.name, unguided.given, unguided.opened, key)
        self.place = unguided.place

    @property
    def model(self) -> Candidate:
        """The model that gives guided logits."""
        return Guided(self.unguided.model, self.sampler)

    @property
    def engine(self) -> Engine | None:
        """The engine without guidance."""
        return self.unguided.engine

    @property
    def exported(self) -> Side:
        """What stands for the model where graphs are compared."""
        return self.unguided.exported

    @property
    def kept_layers(self) -> list[int] | None:
        """The reference's layers that it still has; None if all."""
        return self.unguided.kept_layers


def beside(candidate: Side, reference: Side, sampler: Sampler) -> Subject:
    """A candidate that draws by this sampler beside a reference, whose guidance is applied where it is inside.

    The reference's guided form is made once and kept, as are its scores.
    """
    if not sampler.guidance_inside or reference.model.sampler.guidance_inside:
        return Subject(candidate, reference)
    if sampler not in reference.guided:
        reference.guided[sampler] = GuidedSide(reference, sampler)
    return Subject(candidate, reference.guided[sampler])


@dataclass(frozen=True, eq=False)
class Subject:
    """A candidate under measurement, beside its reference."""

    candidate: Side
    reference: Side
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> Given:
        """What both are given."""
        return self.candidate.given

    @property
    def keys(self) -> tuple[str, str]:
        """The artifacts' keys; empty outside of a run."""
        return self.candidate.key, self.reference.key

    @property
    def unrounded(self) -> Side | None:
        """The candidate before its products rounded their inputs, or else the reference; None where they do not."""
        return self.candidate.unrounded or (self.reference if self.candidate.rounds_inputs else None)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What measures of this subject share: made for the first that wants it, kept as long as the subject is."""
        if name not in self.made:
            self.made[name] = make()
        made: Made = self.made[name]
        return made

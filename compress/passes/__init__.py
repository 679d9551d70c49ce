"""A pass turns one model into another; each file here is one, and the file's name is its name in recipes.

`prune_heads.py` defines exactly one subclass of `Pass`, `PruneHeads`, and is called `prune-heads`. Third parties add
theirs through the entry-point group `compress.passes`, whose entries are called like the class that they name.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from calibration.tokens import TokenSet
from compress.core import registry
from compress.core.settings import ContradictionError, InputError, check_fields, nearest, shown
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.passes.shared.notes import Notes as Notes
from compress.training.world import ALONE, World
from export.graph.saturation import ReduceRange
from export.runtime.manifest import Cpu

Given = TypeVar("Given")
Made = TypeVar("Made")
ENTRY_POINTS = "compress.passes"
ReduceRangeSetting = Literal["auto", ReduceRange]
REDUCE_RANGE = (
    "keeps int8 products from saturating on x86 without VNNI: pairs of neighbouring weights, all (true), or not (false)"
)


def unreported(step: int, steps: int, values: dict[str, float]) -> None:
    """Tell nobody how far a pass is."""


class PassError(InputError):
    """A pass cannot do what its settings ask of this model; `Pass.run` puts the pass's name in front."""


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the model: the untouched reference, tokens, a seed, a folder to checkpoint in.

    A pass that trains may be run by several processes at once: `world` says which of them this is.
    """

    reference: ImageModel
    tokens: TokenSet
    calibration: int
    seed: int
    workspace: Path
    report: Callable[[int, int, dict[str, float]], None] = unreported
    world: World = ALONE

    def calibration_tokens(self) -> TokenSet:
        """The first `calibration` training pictures.

        Raises:
            PassError: there are not so many.
        """
        try:
            return self.tokens.part("train", self.calibration)
        except ValueError as error:
            raise PassError(str(error)) from error

    def comparison_tokens(self) -> TokenSet:
        """Pictures to compare two models on: as many of validation, which no pass learns from, or of training.

        Raises:
            PassError: as `calibration_tokens`, where there are none of validation.
        """
        validation = len(self.tokens.part("validation"))
        if not validation:
            return self.calibration_tokens()
        return self.tokens.part("validation", min(validation, self.calibration))


@dataclass(frozen=True)
class Outcome(Generic[Made]):
    """What a pass made, and what it has to say of it."""

    model: Made
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class Pass(ABC, Generic[Given, Made]):
    """Settings are the fields; `apply` does the work. It reads no paths and prints nothing.

    A pass that exists has valid settings: types, choices and ranges are checked when it is made, then `validate`.
    `version` goes up whenever the same settings give another result, so the store does not serve the old one. A pass
    that reads neither tokens nor seed says so with `uses_tokens = False`, and is then reused across both.
    """

    name: ClassVar[str]  # in recipes and messages, from the class's: `PruneHeads` is `prune-heads`
    accepts: ClassVar[Form]
    returns: ClassVar[Form]
    exact: ClassVar[bool] = False
    uses_tokens: ClassVar[bool] = True
    version: ClassVar[int] = 1
    trains: ClassVar[bool] = False  # whether `apply` shares its work with the other processes of `Context.world`
    refusals: ClassVar[tuple[type[Exception], ...]] = ()  # of libraries below, which are a PassError here

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = registry.dashed(cls.__name__)

    def __post_init__(self) -> None:
        """Hold the settings to their types and ranges, and to each other.

        Raises:
            InputError: the first that is wrong, in the words that a recipe is refused with.
        """
        check_fields(self, self.name)
        try:
            self.validate()
        except ValueError as error:
            raise ContradictionError(self.name, str(error)) from error

    @property
    def reads_tokens(self) -> bool:
        """Whether the pass, with these settings, reads tokens or the seed."""
        return self.uses_tokens

    @property
    def keeps_numbers(self) -> bool:
        """Whether what the pass makes, with these settings, computes the same as what it was given."""
        return self.exact

    @property
    def takes_times(self) -> bool:
        """Whether the pass, with these settings, times on this machine, so that nothing else may work beside it."""
        return False

    def validate(self) -> None:
        """Refuse settings that contradict each other, by a ValueError."""

    def check_processes(self, processes: int) -> None:
        """Refuse so many processes, where the pass trains and cannot share its work equally, by an InputError."""

    def environment(self) -> dict[str, str]:
        """What of this machine decides the result besides libraries every pass shares; part of the artifact's key."""
        return {}

    def run(self, model: Given, context: Context) -> Outcome[Made]:
        """The model of form `returns` made from one of form `accepts`, which is left as it was.

        Raises:
            PassError: the model is not what the pass requires, or cannot be made; the message begins with its name.
        """
        with self.named():
            self.requires(model)
            outcome = self.apply(model, context)
            self.ensures(outcome.model)
        return outcome

    def requires(self, model: Given) -> None:
        """Refuse a model that the pass cannot work on, by a PassError.

        It takes no time, so a run asks it of its reference before anything long begins.
        """

    @abstractmethod
    def apply(self, model: Given, context: Context) -> Outcome[Made]:
        """The work: the model that `run` gives, and the notes."""

    def ensures(self, made: Made) -> None:
        """Refuse what was made, if it is not what the pass promises, by a PassError."""

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Put the pass's name in front of its errors."""
        try:
            yield
        except (PassError, *self.refusals) as error:  # type: ignore[misc]  # mypy does not unpack here
            raise PassError(f"{self.name}: {error}") from error

    def deployed_on(self, cpu: Cpu, targets: Collection[str]) -> Self:
        """The pass for engines of these processors and targets: what is ``auto`` in it becomes what suits all of them.

        For VNNI alone, ``reduce_range: auto`` is false.
        """
        if cpu == "vnni" and getattr(self, "reduce_range", None) == "auto":
            return replace(self, reduce_range=False)  # type: ignore[call-arg]
        return self

    def timed_as(self, threads: int, batch: int) -> Self:
        """The pass where a recipe measures speed on so many threads, drawing so many pictures at once."""
        return self

    def int8_range(self) -> ReduceRange:
        """What `reduce_range` says, where a pass has it; ``auto`` is pairs."""
        said: ReduceRangeSetting = getattr(self, "reduce_range", "auto")
        return "pairs" if said == "auto" else said

    @property
    def may_saturate(self) -> bool:
        """Whether the int8 products that it makes saturate on x86 processors without VNNI, by their usual kernels."""
        return False

    def rehearsal(self) -> tuple[Self, float]:
        """A pass that does a little of the same work, for the preflight, and how many times that the real work is."""
        return self, 1.0

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """Bytes that the real pass keeps in memory and its rehearsal, with a handful of pictures, does not."""
        return 0


class TorchPass(Pass[ImageModel, ImageModel]):
    """A pass from PyTorch to PyTorch."""

    accepts: ClassVar[Form] = Form.TORCH
    returns: ClassVar[Form] = Form.TORCH


def names() -> list[str]:
    """Every pass that can be named in a recipe."""
    return registry.names(__path__, ENTRY_POINTS)


def distribution(name: str, group: str = ENTRY_POINTS) -> dict[str, str]:
    """Name and version of the distribution that brings a third party's pass; empty for a pass of this project.

    With another `group` of entry points the same of a target.
    """
    entries = importlib.metadata.entry_points(group=group, name=name)
    return {entry.dist.name: entry.dist.version for entry in entries if entry.dist is not None}


def find(name: str, where: str) -> type[Pass[Any, Any]]:
    """The class of the pass of this name.

    Raises:
        InputError: there is none (the nearest name is suggested), or an entry point names something else.
    """
    if name not in names():
        raise InputError(f"{where}: no pass is called {shown(name)}; {nearest(name, names())}")
    return registry.find(name, __name__, ENTRY_POINTS, Pass)  # type: ignore[type-abstract]

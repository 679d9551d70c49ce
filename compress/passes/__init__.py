"""A pass turns one model into another; each file here is one, and the file's name is its name in recipes.

`prune_heads.py` defines exactly one subclass of `Pass` and is called `prune-heads`. Third parties add theirs through
the entry-point group `compress.passes`, whose entries name a subclass of `Pass`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from calibration.tokens import TokenSet
from compress.core.settings import InputError, nearest, shown
from compress.models.artifact import Form, Model
from compress.models.image_model import ImageModel
from export.graph.saturation import ReduceRange
from export.runtime.manifest import Cpu

ENTRY_POINTS = "compress.passes"
ReduceRangeSetting = Literal["auto", ReduceRange]
REDUCE_RANGE = (
    "keeps int8 products from saturating on x86 without VNNI: pairs of neighbouring weights, all (true), or not (false)"
)


class PassError(InputError):
    """A pass cannot do what its settings ask of this model; the message begins with the pass's name."""


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the model: the untouched reference, tokens, a seed, a folder to checkpoint in."""

    reference: ImageModel
    tokens: TokenSet
    calibration: int
    seed: int
    workspace: Path
    report: Callable[[int, int, dict[str, float]], None] = lambda step, steps, values: None

    def calibration_tokens(self) -> TokenSet:
        """The first `calibration` training pictures."""
        return self.tokens.part("train", self.calibration)


@dataclass(frozen=True)
class Outcome:
    """What a pass made, and what it has to say of it (numbers and short texts for the report)."""

    model: Model
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass(ABC):
    """Settings are the fields; `run` does the work. It reads no paths, prints nothing and times nothing.

    `version` goes up whenever the same settings give another result, so the store does not serve the old one. A pass
    that reads neither tokens nor seed says so with `uses_tokens = False`, and is then reused across both.
    """

    accepts: ClassVar[Form]
    returns: ClassVar[Form]
    exact: ClassVar[bool] = False
    uses_tokens: ClassVar[bool] = True
    version: ClassVar[int] = 1

    @classmethod
    def surroundings(cls) -> dict[str, str]:
        """What of this machine decides the result besides libraries every pass shares; part of the artifact's key."""
        return {}

    @abstractmethod
    def run(self, model: Any, context: Context) -> Outcome:
        """The model of form `returns` made from one of form `accepts`, which is left as it was."""

    def for_cpu(self, cpu: Cpu) -> Pass:
        """The pass for engines of these processors: for VNNI alone, ``reduce_range: auto`` is false."""
        if cpu == "vnni" and getattr(self, "reduce_range", None) == "auto":
            return replace(self, reduce_range=False)  # type: ignore[call-arg]
        return self

    @property
    def may_saturate(self) -> bool:
        """Whether the int8 products that it makes saturate on x86 processors without VNNI, by their usual kernels."""
        return False

    def rehearsal(self) -> tuple[Pass, float]:
        """A pass that does a little of the same work, for the preflight, and how many times that the real work is."""
        return self, 1.0


def names() -> list[str]:
    """Every pass that can be named in a recipe."""
    own = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return sorted({*own, *(entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS))})


def distribution(name: str) -> dict[str, str]:
    """Name and version of the distribution that brings a third party's pass; empty for a pass of this project."""
    entries = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
    return {entry.dist.name: entry.dist.version for entry in entries if entry.dist is not None}


def find(name: str, where: str) -> type[Pass]:
    """The class of the pass of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    if name not in names():
        raise InputError(f"{where}: no pass is called {shown(name)}; {nearest(name, names())}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        return entry.load()
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    (found,) = (
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Pass) and value.__module__ == module.__name__
    )
    return found

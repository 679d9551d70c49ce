"""The targets that an engine can be for, and what runs it: ONNX Runtime, unless a target brings a runner of its own."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

if TYPE_CHECKING:
    from .drawing import Drawer, Runner
    from .manifest import Cache, Manifest

TARGETS, DEPLOYMENTS = "compress.targets", "compress.deployments"  # the groups of entry points of third parties


class BuiltPlan(Protocol):
    """What was built of a decode graph, opened on this machine."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held by a drawing."""

    def loop(self, rows: int) -> Runner:
        """Decoding for this many rows."""


@runtime_checkable
class BuiltGraphs(BuiltPlan, Protocol):
    """Plans of several graphs: besides the decode graph, those that run once for a picture."""

    @property
    def numbers_of_a_row(self) -> int:
        """How many numbers are computed of a row before its steps."""

    def runs(self, graph: str) -> bool:
        """Whether the graph of this role has a plan."""

    def sizes(self, graph: str, name: str) -> tuple[int, ...]:
        """The shape of an input or output of such a graph; one that a call decides is -1."""

    def run(self, graph: str, taken: str, given: str, array: NDArray[Any]) -> NDArray[Any]:
        """An output (R, ...) of such a graph for an input (R, ...), both by their names."""


@runtime_checkable
class ChoosingRunner(Protocol):
    """A runner that can choose tokens itself, so that logits need not leave it."""

    def drawer(self) -> Drawer:
        """What draws with it."""


@dataclass(frozen=True)
class Deployment:
    """How engines of a target run.

    `caches` are those that its decode graph may have. `opens` opens what was built of it, a file beside the manifest,
    and raises `RunnerMissingError` where this machine cannot run it: ONNX Runtime then runs the graph. None: ONNX
    Runtime always does.
    """

    caches: tuple[Cache, ...] = ("growing", "shared", "static", "none")
    opens: Callable[[Path, Manifest], BuiltPlan] | None = None


def open_tensorrt(path: Path, manifest: Manifest) -> BuiltPlan:
    """A plan of TensorRT."""
    # By its name: that module reads manifests, and manifests are checked here.
    plan: BuiltPlan = importlib.import_module(f"{__package__}.tensorrt").TensorRTPlans(path, manifest)
    return plan


# The targets of this project; `export/targets/` has a file for each.
OWN = {
    "onnxruntime": Deployment(),
    "standard": Deployment(),
    "tensorrt": Deployment(caches=("static", "none"), opens=open_tensorrt),
}


def names() -> list[str]:
    """Every target that is known on this machine."""
    found = {entry.name for group in (TARGETS, DEPLOYMENTS) for entry in importlib.metadata.entry_points(group=group)}
    return [*OWN, *sorted(found - OWN.keys())]


def find(target: str) -> Deployment | None:
    """How engines of a target run; None where nobody on this machine knows it."""
    if target in OWN:
        return OWN[target]
    for entry in importlib.metadata.entry_points(group=DEPLOYMENTS, name=target):
        found: Deployment = entry.load()
        return found
    return Deployment() if target in names() else None

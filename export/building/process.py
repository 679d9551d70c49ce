"""Ask TensorRT for RTX to parse and build a graph, in a process of its own; what comes back is read, never trusted."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.building import BuildError
from export.building.profiles import Profile
from export.graph.child import ChildError, ChildTimeoutError, ask

PROGRAM = "from export.building.rtx import main; main()"
MODULE = "tensorrt_rtx"
DISTRIBUTIONS = ("tensorrt_rtx_cu13", "tensorrt_rtx_cu12", "tensorrt_rtx")
INSTALL = "pip install 'tensorrt-rtx-cu13==1.7.1.116', which needs no GPU"
PLAN = "{number}.plan"


@dataclass(frozen=True)
class Refusal:
    """What the parser says against one node of a graph; `node` and `operator` are empty where it is of no node."""

    node: str
    operator: str
    code: str
    text: str


@dataclass(frozen=True)
class Attempt:
    """One build: why it was refused, or the plan; the log's list of layers, warnings, and what it took."""

    capabilities: tuple[str, ...]
    refused: str
    plan: bytes | None
    layers: str
    warnings: tuple[str, ...]
    seconds: float
    processor_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Answer:
    """What TensorRT for RTX says of a graph: what its parser refuses, else an attempt for each list of capabilities."""

    version: str
    unparsed: tuple[Refusal, ...]
    attempts: tuple[Attempt, ...]


def installed() -> str:
    """The version of TensorRT for RTX that is installed; empty if none is. It is not imported."""
    if importlib.util.find_spec(MODULE) is None:
        return ""
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def missing() -> str:
    """What to say where it is not installed."""
    return f"TensorRT for RTX is not installed; {INSTALL}"


def build(graph: Path, profiles: Sequence[Profile], builds: Sequence[Sequence[str]], seconds: float) -> Answer:
    """Parse a graph file, and build it once for each list of compute capabilities.

    Raises:
        BuildError: the process crashed or hung, which is a fault of the builder and not of the file's form.
    """
    with tempfile.TemporaryDirectory(prefix="compress-build-") as room:
        folder = Path(room)
        plans = [folder / PLAN.format(number=number) for number in range(len(builds))]
        request = {
            "graph": str(graph.absolute()),
            "profiles": [{"shapes": dict(each.shapes), "value": each.value} for each in profiles],
            "builds": [
                {"capabilities": list(each), "plan": str(plan)} for each, plan in zip(builds, plans, strict=True)
            ],
        }
        try:
            said: dict[str, Any] = ask(PROGRAM, request, folder, seconds)
        except ChildTimeoutError:
            raise BuildError(
                f"TensorRT for RTX {installed()} did not build {graph.name} within {seconds:g} s; give it more"
            ) from None
        except ChildError as error:
            raise BuildError(
                f"TensorRT for RTX {installed()} crashed while it built {graph.name} ({error}); nothing is known of "
                f"the cause, so take the graph apart with  compress check-tensorrt"
            ) from error
        attempts = [
            Attempt(
                capabilities=tuple(wanted),
                refused=each["refused"],
                plan=None if each["refused"] else plan.read_bytes(),
                layers=each["layers"],
                warnings=tuple(each["warnings"]),
                seconds=each["seconds"],
                processor_seconds=each["processor_seconds"],
                peak_mib=each["peak_mib"],
            )
            for wanted, plan, each in zip(builds, plans, said["builds"], strict=False)
        ]
        return Answer(said["version"], tuple(Refusal(**each) for each in said["unparsed"]), tuple(attempts))

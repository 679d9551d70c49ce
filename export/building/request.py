"""What is asked of a builder, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.building.profiles import Rows
from export.runtime.built import Build

Builder = Literal["tensorrt-rtx", "tensorrt"]
SECONDS = 3600


@dataclass(frozen=True)
class Request:
    """What to build, of graphs that lie in a folder.

    `capabilities` are the compute capabilities that TensorRT for RTX builds for; empty takes the usual ones that
    compute the graphs' number formats. `optimization_level` and `workspace_mib` (0: all memory of the device) mean
    something to the classic TensorRT alone. One graph may take `seconds`.
    """

    folder: Path
    rows: Rows
    builder: Builder = "tensorrt-rtx"
    capabilities: tuple[str, ...] = ()
    optimization_level: int = 3
    workspace_mib: int = 0
    seconds: float = SECONDS


@dataclass(frozen=True)
class Cost:
    """What building one graph took."""

    seconds: float
    processor_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Built:
    """Plans by the names of their graphs, the record of the build for the manifest, what it took, and warnings."""

    plans: Mapping[str, bytes]
    record: Build | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

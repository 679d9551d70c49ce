"""Build a plan with the classic TensorRT through Polygraphy, for the device of this machine."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.building import BuildError
from export.building.profiles import Profile
from export.runtime.errors import first_line
from export.runtime.tensorrt import TensorRTMissingError, require

CONSOLE_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build(
    graph: Path, profiles: Sequence[Profile], timing_cache: Path, optimization_level: int = 3, workspace_mib: int = 0
) -> bytes:
    """The serialized plan of a graph; measured kernels are kept in `timing_cache`.

    `workspace_mib` 0 lets kernels use all memory of the device.

    Raises:
        TensorRTMissingError: nothing can be built here.
        BuildError: the parser or the builder refuses the graph.
    """
    trt = require()
    from polygraphy.exception import PolygraphyException

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return serialize(trt, graph, profiles, timing_cache, optimization_level, workspace_mib)
    except (PolygraphyException, RuntimeError) as error:
        raise BuildError(
            f"TensorRT {trt.__version__} refuses {graph.name}: {reason(said.getvalue(), error)}"
        ) from error


def serialize(
    trt: Any,
    graph: Path,
    profiles: Sequence[Profile],
    timing_cache: Path,
    optimization_level: int,
    workspace_mib: int,
) -> bytes:
    """The plan, through Polygraphy's loaders; what TensorRT has to say is printed."""
    from polygraphy.backend import trt as loaders

    asked = []
    for profile in profiles:
        shapes = loaders.Profile()
        for name, (smallest, best, largest) in profile.shapes.items():
            shapes.add(name, smallest, best, largest)
        asked.append(shapes)
    # Where no fused attention kernel fits, TensorRT may take it apart instead of failing.
    network = loaders.SetDecomposableAttentions(loaders.NetworkFromOnnxPath(str(graph), strongly_typed=True))
    config = loaders.CreateConfig(
        profiles=asked,
        load_timing_cache=str(timing_cache) if timing_cache.exists() else None,
        builder_optimization_level=optimization_level,
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: workspace_mib << 20} if workspace_mib else None,
    )
    return bytes(loaders.EngineBytesFromNetwork(network, config, save_timing_cache=str(timing_cache))())


def reason(said: str, error: Exception) -> str:
    """What the parser or builder gave as its reason, in one line."""
    lines = [CONSOLE_COLOUR.sub("", line).strip() for line in said.splitlines()]
    errors = [line.removeprefix("[E]").strip() for line in lines if line.startswith("[E]")]
    return "; ".join(errors) or first_line(error)


def machine() -> tuple[str, str]:
    """TensorRT's version and the device that it builds for.

    Raises:
        TensorRTMissingError: it cannot build here.
    """
    version = str(require().__version__)
    import torch

    return version, torch.cuda.get_device_name() if torch.cuda.is_available() else "unknown"


def missing() -> str:
    """Why it cannot build here; empty where it can."""
    try:
        require()
    except TensorRTMissingError as error:
        return str(error)
    return ""

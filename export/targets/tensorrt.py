"""TensorRT: static graphs that keep the rules of its parser, and the plan that is built of a decode graph."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from export.graph.builder import Builder
from export.rewrites.lowering import LoweringError, QuantizedLayer
from export.runtime.errors import first_line
from export.runtime.manifest import Floats, Manifest
from export.runtime.tensorrt import Rows, profile_shapes, require
from export.targets import BuildError, Target, quantization_rules, tensorrt_rules

CONSOLE_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build(
    decode: Path,
    manifest: Manifest,
    rows: Rows,
    timing_cache: Path,
    optimization_level: int = 3,
    workspace_mib: int = 0,
) -> bytes:
    """The serialized plan of a decode graph with a static cache; measured kernels are kept in `timing_cache`.

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
            return serialize(trt, decode, manifest, rows, timing_cache, optimization_level, workspace_mib)
    except (PolygraphyException, RuntimeError) as error:
        raise BuildError(
            f"TensorRT {trt.__version__} refuses {decode.name}: {reason(said.getvalue(), error)}"
        ) from error


def serialize(
    trt: Any,
    decode: Path,
    manifest: Manifest,
    rows: Rows,
    timing_cache: Path,
    optimization_level: int,
    workspace_mib: int,
) -> bytes:
    """The plan, through Polygraphy's loaders; what TensorRT has to say is printed."""
    from polygraphy.backend import trt as loaders

    profile = loaders.Profile()
    for name, (smallest, best, largest) in profile_shapes(manifest, rows).items():
        profile.add(name, smallest, best, largest)
    # Where no fused attention kernel fits, TensorRT may take it apart instead of failing.
    network = loaders.SetDecomposableAttentions(loaders.NetworkFromOnnxPath(str(decode), strongly_typed=True))
    config = loaders.CreateConfig(
        profiles=[profile],
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


class TensorRT(Target):
    """Standard operators with fixed sizes. Only the decode graph is built; ONNX Runtime runs the others."""

    name = "tensorrt"
    rules = (tensorrt_rules.findings, quantization_rules.findings)
    cache = "static"
    # Not qkv: a product cut into three equal parts becomes one in float, whose weights are unpacked at every step.
    fusions = ("gate-up",)
    builder = staticmethod(build)
    floats: ClassVar[tuple[Floats, ...]] = ("float32", "float16", "bfloat16")
    float32_operators: ClassVar[frozenset[str]] = frozenset(
        ("GroupNormalization", "InstanceNormalization", "LayerNormalization")
    )
    refusals: ClassVar[dict[str, str]] = {
        "quantize-onnx": "makes operators of ONNX Runtime; for tensorrt put quantize before the export",
        "sampling": "outside: TensorRT sorts too few logits",
    }

    def lowered(self, builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
        """Q/DQ and products, as everywhere, of static activations."""
        if layer.dynamic:
            raise LoweringError(
                f"{layer.name}: tensorrt has no dynamic int8 activations; use static ones (dynamic: false) or none"
            )
        return super().lowered(builder, layer, x)

"""What a manifest says of the plans that were built: by what, for what, and what the builder says of how they compute.

Standard library only, because the runtime reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .strict_json import whole

COUNT = whole(0)
NAMES = {"tensorrt-rtx": "TensorRT for RTX", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Evidence:
    """How a plan computes one graph within one profile, as its builder lists the kernels.

    `products` counts matrix products and convolutions by the types of their operands, ``Int8 x Int8``. The graph asks
    for low precision in `asked` of its products, by weights behind a DequantizeLinear; `low` of them read operands of
    low precision, `in_float` names the others. `unpacked` kernels do nothing but turn weights to float, at every call.
    Of the `attentions` of the graph `fused` are one kernel and `taken_apart` the others, by name; of its `caches`
    `in_place` are updated where they lie.
    """

    profile: str
    kernels: int = field(metadata=COUNT)
    products: dict[str, int] = field(metadata=COUNT)
    asked: int = field(metadata=COUNT)
    low: int = field(metadata=COUNT)
    in_float: tuple[str, ...]
    unpacked: int = field(metadata=COUNT)
    attentions: int = field(metadata=COUNT)
    fused: int = field(metadata=COUNT)
    taken_apart: tuple[str, ...]
    caches: int = field(metadata=COUNT)
    in_place: int = field(metadata=COUNT)


@dataclass(frozen=True)
class BuiltPart:
    """The plan of one graph: its size in bytes, and what shows how it computes; nothing where the builder says none."""

    plan_bytes: int = field(metadata=COUNT)
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Build:
    """What built an engine's plans.

    `capabilities` are the compute capabilities that they are for, such as ``8.9``; empty where they are for the
    `device` on which they were built. `rows` are the smallest, best and largest of a step. `parts` are the graphs that
    have a plan, `not_built` says why the others have none.
    """

    builder: Literal["tensorrt-rtx", "tensorrt"]
    version: str
    capabilities: tuple[str, ...]
    device: str
    rows: tuple[int, int, int] = field(metadata=whole(1))
    parts: dict[str, BuiltPart]
    not_built: dict[str, str] = field(default_factory=dict)

    @property
    def made_by(self) -> str:
        """The builder and its version, in words."""
        return f"{NAMES[self.builder]} {self.version}"

    @property
    def made_for(self) -> str:
        """What the plans run on, in words."""
        return f"compute capability {', '.join(self.capabilities)}" if self.capabilities else self.device

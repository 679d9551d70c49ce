"""Standard ONNX: any runtime that reads the operators of ai.onnx."""

from __future__ import annotations

from export.targets import Target


class Standard(Target):
    """Graphs of standard operators alone, with a cache that grows."""

    name = "standard"
    fusions = ("attention", "qkv", "gate-up")

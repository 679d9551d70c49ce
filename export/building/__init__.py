"""Build what TensorRT runs of an engine's graphs: a plan for each, and the evidence of how it computes.

`rtx` builds with TensorRT for RTX, on any machine, in a process of its own; `classic` with TensorRT through Polygraphy,
for the device that it finds. `plans` builds all graphs of an engine with either.
"""

from __future__ import annotations


class BuildError(Exception):
    """A builder refused a graph; the message holds what it said."""

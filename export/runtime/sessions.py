"""The sessions of ONNX Runtime that a step of drawing takes: the decode graph, and what runs before it.

Letters: R rows of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .binding import NO_GRAPH, NUMPY, Bound, run_options
from .devices import CPU, Device

SHRINK = "memory.enable_memory_arena_shrinkage"  # of ONNX Runtime's run options: arenas that give back what is free


@dataclass(frozen=True)
class Sessions:
    """The decode graph; of a next-scale model that of tokens to what it reads, of a hoisted one what runs before."""

    decode: onnxruntime.InferenceSession
    scales: onnxruntime.InferenceSession | None = None
    begin: onnxruntime.InferenceSession | None = None
    device: Device = field(default_factory=Device)  # that all of them run on

    @property
    def taken(self) -> set[str]:
        """Inputs of the decode graph."""
        return {each.name for each in self.decode.get_inputs()}

    @property
    def numbers_of_a_row(self) -> int:
        """How many numbers that is for each row."""
        shapes = [] if self.begin is None else [each.shape[1:] for each in self.begin.get_outputs()]
        return sum(prod(shape) for shape in shapes)

    def run(self, names: Sequence[str], feeds: dict[str, NDArray[Any]], *, last: bool = False) -> list[NDArray[Any]]:
        """Outputs of one call of the decode graph, from and to the host.

        Behind the last call of a scoring the session gives back the memory that it took, which it would keep. To take
        it again costs about a tenth of a call's time.
        """
        options = run_options(NO_GRAPH) if self.device.captures else None
        if last and self.device.name == CPU:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry(SHRINK, f"{CPU}:0")
        made: list[NDArray[Any]] = self.decode.run(names, feeds, options)
        return made

    def begun(self, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What is computed once of classes (R,), and features of a text, and read at every step."""
        if self.begin is None:
            return {}
        names = [each.name for each in self.begin.get_outputs()]
        made = self.begin.run(names, {each.name: given[each.name] for each in self.begin.get_inputs()})
        return dict(zip(names, made, strict=True))

    def begin_into(self, bound: Bound, given: dict[str, NDArray[Any]]) -> None:
        """Compute the same into what a loop reads: on a device, it never leaves that."""
        if self.begin is None:
            return
        binding, rows = self.begin.io_binding(), len(next(iter(given.values())))
        for each in self.begin.get_inputs():
            binding.bind_cpu_input(each.name, given[each.name])
        made = {}
        for each in self.begin.get_outputs():
            zeros = np.zeros((rows, *each.shape[1:]), dtype=NUMPY[each.type])
            made[each.name] = bound.room(each.name, zeros)
            binding.bind_ortvalue_output(each.name, made[each.name])
        self.begin.run_with_iobinding(binding)
        for name, value in made.items():
            bound.bind(name, value)

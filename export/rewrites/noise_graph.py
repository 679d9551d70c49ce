"""The noise of a seed as ONNX operators: the numbers of `export.runtime.noise`, made where the graph runs.

Letters: B pictures, m numbers of a picture.

Products and sums are of int64, which wrap around as unsigned ones do; shifts and exclusive or are of uint64.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.builder import Builder
from export.runtime.noise import BITS, FACTORS, GOLDEN, SHIFTS, USES, Use

INT64, UINT64, FLOAT = int(ir.DataType.INT64), int(ir.DataType.UINT64), int(ir.DataType.FLOAT)


def signed(number: int) -> np.ndarray:
    """The bits of a whole number below 2^64 as int64."""
    return np.array(number, dtype=np.uint64).view(np.int64)


class GraphNoise:
    """Noise made by the nodes that a builder adds; keys of pictures are made once, numbers at every step."""

    def __init__(self, builder: Builder, keys: ir.Value | None = None) -> None:
        """Noise of pictures with these keys (B,) int64, or without any yet."""
        self.one = builder.initializer("one", np.array(1))
        self.golden = builder.initializer("golden", signed(GOLDEN))
        self.factors = [builder.initializer(f"factor_{index}", signed(each)) for index, each in enumerate(FACTORS)]
        self.shifts = [
            builder.initializer(f"shift_{each}", np.array(each, dtype=np.uint64)) for each in (*SHIFTS, 64 - BITS)
        ]
        self.half = builder.initializer("half", np.array(0.5, dtype=np.float32))
        self.unit = builder.initializer("unit", np.array(2.0**-BITS, dtype=np.float32))
        self.keys = keys

    @classmethod
    def of_seed(cls, builder: Builder, seed: ir.Value, pictures: ir.Value, first: ir.Value | None = None) -> GraphNoise:
        """That of a seed () int64 for as many pictures (1,) int64 as there are, from number `first` () int64 on."""
        noise = cls(builder)
        seeded = noise.mixed(builder, builder.add("Add", [seed, noise.golden], "seed"), "seeded")
        count = builder.add("Squeeze", [pictures], "count")
        steps = noise.steps_of(builder, count, "picture")
        if first is not None:
            steps = builder.add("Add", [steps, builder.add("Mul", [first, noise.golden], "before")], "picture_steps")
        noise.keys = noise.mixed(builder, builder.add("Add", [seeded, steps], "numbered"), "pictures")
        return noise

    def steps_of(self, builder: Builder, count: ir.Value, name: str) -> ir.Value:
        """The increments (count,) of the first numbers."""
        end = builder.add("Add", [count, self.one], f"{name}_end")
        numbers = builder.add("Range", [self.one, end, self.one], f"{name}_numbers")
        return builder.add("Mul", [numbers, self.golden], f"{name}_increments")

    def mixed(self, builder: Builder, state: ir.Value, name: str, *, unsigned: bool = False) -> ir.Value:
        """The output function of SplitMix64, as int64 or uint64."""
        state = builder.add("Cast", [state], f"{name}_bits", to=UINT64)
        for index, shift in enumerate(self.shifts[: len(SHIFTS)]):
            moved = builder.add("BitShift", [state, shift], f"{name}_moved_{index}", direction="RIGHT")
            state = builder.add("BitwiseXor", [state, moved], f"{name}_mixed_{index}")
            if index < len(self.factors):
                whole = builder.add("Cast", [state], f"{name}_whole_{index}", to=INT64)
                product = builder.add("Mul", [whole, self.factors[index]], f"{name}_product_{index}")
                state = builder.add("Cast", [product], f"{name}_bits_{index}", to=UINT64)
        return state if unsigned else builder.add("Cast", [state], name, to=INT64)

    def gumbel(self, builder: Builder, step: ir.Value, count: ir.Value, use: Use = "token") -> ir.Value:
        """Gumbel noise (B, m) of a step (), for m () numbers."""
        uses = builder.initializer(f"{use}_uses", np.array(len(USES)))
        after = builder.initializer(f"{use}_after", np.array(USES[use] + 1))
        place = builder.add("Add", [builder.add("Mul", [step, uses], f"{use}_step"), after], f"{use}_place")
        moved = builder.add("Mul", [place, self.golden], f"{use}_moved")
        keys = self.mixed(builder, builder.add("Add", [self.keys, moved], f"{use}_keyed"), f"{use}_keys")
        last = builder.initializer(f"{use}_last", np.array([-1]))
        column = builder.add("Unsqueeze", [keys, last], f"{use}_column")  # (B, 1)
        states = builder.add("Add", [column, self.steps_of(builder, count, use)], f"{use}_states")  # (B, m)
        bits = self.mixed(builder, states, f"{use}_hash", unsigned=True)
        top = builder.add("BitShift", [bits, self.shifts[-1]], f"{use}_top", direction="RIGHT")
        number = builder.add("Add", [builder.add("Cast", [top], f"{use}_number", to=FLOAT), self.half], f"{use}_middle")
        made = builder.add("Mul", [number, self.unit], f"{use}_uniform")
        for turn in ("once", "twice"):
            made = builder.add("Neg", [builder.add("Log", [made], f"{use}_log_{turn}")], f"{use}_gumbel_{turn}")
        return made

"""What linear layers cost in each number format: the KL that rounding them alone adds, block after block.

Layers are rounded as `quantize` rounds them where all others stay in float, by the inputs that they have then. What is
rounded together is a unit: a layer, or several of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from calibration.gptq import Gram
from calibration.observe import Magnitudes
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import LinearQuantization, replace_module
from compress.passes import Context
from compress.passes.shared.alone import Changes, Predictions
from compress.passes.shared.blockwise import Streams, seen_inputs
from compress.passes.shared.format_names import name_of
from compress.passes.shared.quantizing import CONDITIONED, HEAD, Seen, Work, conditions, see, sharing_copy
from compress.passes.shared.rounding import Ranges

Specs = Mapping[str, LinearQuantization]
Unit = tuple[str, ...]  # layers of one block, or the head
Formats = Mapping[Unit, Sequence[LinearQuantization | None]]  # None is float
ByPicture = dict[str, list[float]]  # KL of each picture, nats, by the format's name
Measure = Callable[[], ByPicture]
Remember = Callable[[Unit, Measure], ByPicture]


def measured_now(unit: Unit, measure: Measure) -> ByPicture:
    """Remembers nothing."""
    return measure()


class LayerCosts:
    """The KL that each unit adds in each format, over the pictures of `before`.

    `rounding` says which layers of some formats are rounded by their outputs. What a unit cost before may come from
    `remember`; blocks of which all is remembered cost one step of the streams.
    """

    def __init__(
        self,
        transformer: TokenTransformer,
        before: Predictions,
        context: Context,
        ranges: Ranges,
        rounding: Callable[[Specs], set[str]],
        remember: Remember = measured_now,
    ) -> None:
        self.transformer = sharing_copy(transformer)
        self.changes = Changes(self.transformer, before)
        self.context, self.ranges, self.rounding, self.remember = context, ranges, rounding, remember
        self.silent = replace(context, report=lambda step, steps, values: None)
        self.calibration: Streams | None = None  # of the pictures that layers are rounded by
        self.index = 0  # of the block that they stand in front of
        self.seen: dict[str, Seen] = {}
        self.seen_at = -1

    def all(self, formats: Formats) -> dict[Unit, dict[str, NDArray[np.float64]]]:
        """KL of each picture (N,), nats, by unit and format; of float 0.

        Raises:
            PassError: activations hold NaN or Inf.
        """
        found: dict[Unit, dict[str, NDArray[np.float64]]] = {}
        for unit in sorted(formats, key=self.place):
            specs = {name_of(spec): spec for spec in formats[unit] if spec is not None}
            made = self.remember(unit, partial(self.measure, unit, specs, formats)) if specs else {}
            exact = {name_of(None): np.zeros(len(self.changes.before.tokens))} if None in formats[unit] else {}
            found[unit] = {name: np.array(made[name]) for name in specs} | exact
            self.context.report(len(found), len(formats), {})
        return found

    def place(self, unit: Unit) -> int:
        """The number of the block that a unit is in; the head is behind them."""
        return len(self.transformer.blocks) if unit == (HEAD,) else int(unit[0].split(".")[1])

    def measure(self, unit: Unit, specs: Specs, formats: Formats) -> ByPicture:
        """Round a unit to each of the formats, and put it back."""
        index = self.place(unit)
        self.changes.go_to(index)
        self.look(index, formats)
        linears = {name: linear_of(self.transformer, name) for name in unit}
        found: ByPicture = {}
        for title, spec in specs.items():
            wanted = dict.fromkeys(unit, spec)
            by_outputs = self.rounding(wanted)
            work = Work(self.transformer, wanted, self.ranges, by_outputs, self.silent, demanded=False)
            try:
                for name, seen in ((name, self.seen[name]) for name in unit):
                    gram = seen.gram if name in by_outputs else None
                    work.quantize(name, replace(seen, magnitudes=seen.magnitudes if spec.static else None, gram=gram))
                found[title] = self.changes.kl().tolist()
            finally:
                for name, linear in linears.items():
                    replace_module(self.transformer, name, linear)
        return found

    def look(self, index: int, formats: Formats) -> None:
        """See what the layers of a block read of the calibration pictures, where rounding asks for it; once."""
        if self.seen_at == index:
            return
        here = [unit for unit in formats if self.place(unit) == index]
        self.seen = {name: self.seen_of(name, formats[unit]) for unit in here for name in unit}
        self.seen_at = index
        watched = [name for name, seen in self.seen.items() if seen.magnitudes is not None or seen.gram is not None]
        if not watched:
            return
        if self.calibration is None:
            self.calibration = Streams(self.transformer, self.context.calibration_tokens())
        while self.index < index:
            self.calibration.advance(self.transformer.blocks[self.index])
            self.index += 1
        if index == len(self.transformer.blocks):
            with seen_inputs(self.transformer, watched, partial(see, self.seen)):
                for _ in self.calibration.logits():
                    pass
            return
        prefix = f"blocks.{index}."
        own = {name.removeprefix(prefix): self.seen[name] for name in watched}
        self.calibration.watch(
            self.transformer.blocks[index], [name for name in own if name != CONDITIONED], partial(see, own)
        )
        if CONDITIONED in own:
            own[CONDITIONED].add(conditions(self.transformer))

    def seen_of(self, name: str, specs: Sequence[LinearQuantization | None]) -> Seen:
        """What is to be seen of a layer's inputs for any of its formats."""
        given = [spec for spec in specs if spec is not None]
        gram = any(self.rounding({name: spec}) for spec in given)
        magnitudes = any(spec.static for spec in given)
        inputs = linear_of(self.transformer, name).in_features
        return Seen(name, Magnitudes() if magnitudes else None, Gram(inputs) if gram else None)


def linear_of(transformer: TokenTransformer, name: str) -> nn.Linear:
    """The linear layer of this name."""
    linear = transformer.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear

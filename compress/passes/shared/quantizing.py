"""The layers of a model, block after block, on their way into few bits: what each reads, and how it is rounded.

Letters: K inputs of a linear layer.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.gptq import Gram
from calibration.observe import Magnitudes
from calibration.ranges import one_thread
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import LinearQuantization, replace_module
from compress.passes import Context, PassError
from compress.passes.shared.blockwise import Streams, seen_inputs
from compress.passes.shared.rounding import Ranges, round_by_outputs

HEAD = "head"
CONDITIONED = "modulation.linear"  # of a block that the class modulates


def looks_at(specs: Mapping[str, LinearQuantization], by_outputs: Collection[str]) -> bool:
    """Whether what layers read has to be seen."""
    return bool(by_outputs) or any(spec.static for spec in specs.values())


class Work:
    """The layers of one model on their way into few bits, block after block.

    Layers of `by_outputs` are rounded so that what they give changes least; where that is `demanded`, too few pictures
    for one of them are an error.
    """

    def __init__(
        self,
        transformer: TokenTransformer,
        specs: Mapping[str, LinearQuantization],
        ranges: Ranges,
        by_outputs: Collection[str],
        context: Context,
        *,
        demanded: bool,
    ) -> None:
        self.transformer, self.specs, self.ranges, self.context = transformer, specs, ranges, context
        self.by_outputs, self.demanded = by_outputs, demanded
        self.ratios: dict[str, float] = {}  # signal to noise of each layer's weights
        self.counts: dict[str, int] = {}  # and how many they are
        self.damped: dict[str, bool] = {}  # whether that mattered, of the layers that were rounded by their outputs
        self.left: list[str] = []  # those that could not be

    def run(self) -> None:
        """Replace every layer that has a format.

        Raises:
            PassError: activations hold NaN or Inf, or `rounding: gptq` has too few pictures.
        """
        looked_at = looks_at(self.specs, self.by_outputs)
        streams = Streams(self.transformer, self.context.calibration_tokens()) if looked_at else None
        for index, block in enumerate(self.transformer.blocks):
            prefix = f"blocks.{index}."
            names = [name.removeprefix(prefix) for name in self.specs if name.startswith(prefix)]
            seen = {name: self.seen_of(prefix + name) for name in names}
            if streams is not None:
                streams.watch(block, [name for name in names if name != CONDITIONED], partial(see, seen))
                if CONDITIONED in seen:
                    seen[CONDITIONED].add(conditions(self.transformer))
            for name in names:
                self.quantize(prefix + name, seen[name])
            if streams is not None:
                streams.advance(block)
        if HEAD in self.specs:
            seen = {HEAD: self.seen_of(HEAD)}
            if streams is not None:
                with seen_inputs(self.transformer, [HEAD], partial(see, seen)):
                    for _ in streams.logits():
                        pass
            self.quantize(HEAD, seen[HEAD])

    def seen_of(self, name: str) -> Seen:
        """What is to be seen of a layer's inputs."""
        linear, spec = self.transformer.get_submodule(name), self.specs[name]
        assert isinstance(linear, nn.Linear)
        gram = Gram(linear.in_features) if name in self.by_outputs else None
        return Seen(name, Magnitudes() if spec.static else None, gram)

    def quantize(self, name: str, seen: Seen) -> None:
        """Put a quantized layer in place of a float one.

        Raises:
            PassError: as `run` says.
        """
        linear = self.transformer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        weight = linear.weight.detach()
        if seen.magnitudes is not None and not int(seen.magnitudes.counts.sum()):
            raise PassError(f"{name}: saw no activations")
        with one_thread():
            quantized = self.ranges.quantized(linear, self.specs[name], seen.magnitudes)
        if seen.gram is not None and self.tells_enough(name, seen.gram):
            self.damped[name] = round_by_outputs(quantized, weight, seen.gram)
        with one_thread():
            self.ratios[name] = sqnr_db(weight, quantized.dequantized_rows())
        self.counts[name] = weight.numel()
        replace_module(self.transformer, name, quantized)
        self.context.report(len(self.ratios), len(self.specs), {})

    def tells_enough(self, name: str, gram: Gram) -> bool:
        """Whether a layer's inputs say how its outputs change.

        Of modulation by class they are all that there are. What else reads one vector a picture has seen too few.

        Raises:
            PassError: too few pictures, where `rounding: gptq` is asked for by name.
        """
        pictures = len(self.context.calibration_tokens())
        each, needed = gram.rows // pictures, len(gram.matrix)
        if name.endswith(f".{CONDITIONED}") or (each > 1 and gram.rows >= needed):
            return True
        if each > 1 and self.demanded:
            raise PassError(
                f"rounding: gptq: {name} has {needed} inputs and needs as many rows of them, at least "
                f"{-(-needed // each)} calibration pictures; there are {pictures}: raise tokens.calibration, or use "
                f"rounding: auto"
            )
        self.left.append(name)
        return False


@dataclass(frozen=True)
class Seen:
    """What is kept of the inputs (rows, K) of one layer."""

    name: str
    magnitudes: Magnitudes | None
    gram: Gram | None

    def add(self, x: Tensor) -> None:
        """Look at inputs.

        Raises:
            PassError: they hold NaN or Inf.
        """
        if not bool(torch.isfinite(x).all()):
            raise PassError(f"{self.name}: activations hold NaN or Inf")
        if self.magnitudes is not None:
            self.magnitudes.add(x)
        if self.gram is not None:
            self.gram.add(x)


def conditions(transformer: TokenTransformer) -> Tensor:
    """All that modulation by class ever reads (rows, D): every class and none, at every position that matters."""
    config = transformer.config
    labels = torch.arange(config.classes + 1)
    positions = torch.arange(config.reach if config.modulation == "class-position" else 1)
    with torch.no_grad():
        condition = transformer.conditioned(labels, positions)
    assert condition is not None
    return functional.silu(condition).flatten(0, -2)


def see(seen: Mapping[str, Seen], name: str, x: Tensor) -> None:
    """Look at the inputs of the layer of this name."""
    seen[name].add(x)


def sqnr_db(exact: Tensor, rounded: Iterable[Tensor]) -> float:
    """Signal to quantization noise, decibels; of an exact copy 200. What is rounded comes a few rows at a time."""
    signal, noise, start = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
    for part in rounded:
        rows = exact[start : start + len(part)]
        signal, noise = signal + rows.double().square().sum(), noise + (rows - part).double().square().sum()
        start += len(part)
    return float(torch.clamp(10 * torch.log10(signal / noise), max=200)) if noise > 0 else 200.0


def sharing_copy(transformer: TokenTransformer) -> TokenTransformer:
    """Modules of their own around the same tensors, so that layers can be replaced without a second copy in memory.

    Nobody changes a model's tensors in place: what is trained is a full copy.
    """
    tensors = (*transformer.parameters(), *transformer.buffers())
    return copy.deepcopy(transformer, {id(each): each for each in tensors})

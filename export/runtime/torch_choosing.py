"""From logits to tokens where the logits are: what `choosing` and `noise` do in NumPy, in PyTorch on any device.

Letters: B pictures, R rows of a step, n positions of a step, V logits of a position, m numbers of a picture.

Of a step only tokens, and of a masked model how sure they are, come to the host.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .choosing import Choice, Chosen, check_sound, lead
from .cuts import CUTS
from .noise import BITS, FACTORS, GOLDEN, SHIFTS, Noise, NoiseOfEach, Use

WORD = 64  # bits of a hash
UNSOUND = -1  # in the place of a token whose logits hold NaN or infinity


class DeviceNoise:
    """The noise of a seed, made on a device: the same random bits as `Noise`, whose logarithms may round otherwise."""

    def __init__(self, noise: Noise | NoiseOfEach, torch: Any, device: str) -> None:
        self.host, self.torch, self.device = noise, torch, device
        self.increments: dict[int, Any] = {}  # (m,) int64, by how many there are

    @property
    def count(self) -> int:
        """Pictures."""
        return self.host.count

    def gumbel(self, step: int, shape: tuple[int, ...], use: Use = "token") -> Any:
        """Gumbel noise (B, *shape) of a step: a tensor of the device to choose tokens, an array to choose places."""
        if use != "token":  # places are chosen on the host
            return self.host.gumbel(step, shape, use)
        numbers = prod(shape)
        if numbers not in self.increments:
            self.increments = {numbers: self.steps_of(numbers)}
        parts = self.host.parts if isinstance(self.host, NoiseOfEach) else (self.host,)
        keys = np.concatenate([part.keys(step, use) for part in parts]).view(np.int64)
        states = self.torch.from_numpy(keys).to(self.device)[:, None] + self.increments[numbers]  # (B, m)
        uniform = shifted(mixed(states), WORD - BITS).float().add_(0.5).mul_(2.0**-BITS)
        return uniform.log_().neg_().log_().neg_().view(self.count, *shape)

    def steps_of(self, count: int) -> Any:
        """The increments (m,) of the first numbers, modulo 2^64 as all sums and products of whole numbers here."""
        numbers = self.torch.arange(1, 1 + count, dtype=self.torch.int64, device=self.device)
        return numbers * signed(GOLDEN)


def signed(number: int) -> int:
    """The whole number whose 64 bits are those of a number below 2^64."""
    return number - (number >> (WORD - 1) << WORD)


def shifted(state: Any, places: int) -> Any:
    """Bits moved to the right, with zeros behind them; PyTorch repeats the sign."""
    return (state >> places) & ((1 << (WORD - places)) - 1)


def mixed(state: Any) -> Any:
    """The output function of SplitMix64, as `noise.mixed`."""
    for index, places in enumerate(SHIFTS):
        state = state ^ shifted(state, places)
        if index < len(FACTORS):
            state = state * signed(FACTORS[index])
    return state


def choose(logits: Any, choice: Choice, torch: Any, *, with_sureness: bool = False) -> Chosen:
    """One token for each position of logits (R, n, V) on a device, as `choosing.choose` chooses; noise lies there too.

    Raises:
        UnsoundLogitsError: the logits hold NaN or infinity.
    """
    pictures, _, outputs = choice.noise.shape
    guided = guide(logits[..., :outputs].float(), pictures, choice.guidance)
    scores = guided / choice.temperature if choice.temperature else guided
    for cut in CUTS:
        if cut.name in choice.cuts:
            scores = cut.keep_on_device(scores, choice.cuts[cut.name])
    largest, places = (scores + choice.noise if choice.temperature else scores).max(dim=-1)
    tokens: NDArray[np.int64] = torch.where(largest.isfinite(), places, UNSOUND).cpu().numpy()
    if (tokens == UNSOUND).any():
        check_sound(largest.cpu().numpy())
    if not with_sureness:
        nothing = np.empty((*tokens.shape[:1], 0), dtype=np.float32)
        return Chosen(tokens, nothing, nothing)
    rows = places[..., None]
    sureness = scores.gather(-1, rows)[..., 0] - scores.logsumexp(dim=-1)
    return Chosen(tokens, guided.gather(-1, rows)[..., 0].cpu().numpy(), sureness.cpu().numpy())


def guide(logits: Any, pictures: int, scale: float) -> Any:
    """Logits (B, n, V) of the pictures, as `choosing.guide`."""
    if len(logits) == pictures:
        return logits
    given, null = logits[:pictures], logits[-pictures:]
    return lead(given, null, scale)

"""How far the student's distribution is from the teacher's: forward and reverse KL, and Jensen-Shannon between them.

Letters: B batch, T tokens, V vocabulary; P the teacher's distribution, Q the student's, both softened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Kind = Literal["forward", "reverse", "jensen-shannon"]


@dataclass(frozen=True)
class Divergence:
    """A divergence between softened distributions, in nats per token, times the temperature squared.

    ``forward`` is KL(P || Q), ``reverse`` KL(Q || P). ``jensen-shannon`` is m KL(P || M) + (1 - m) KL(Q || M) with
    M = m P + (1 - m) Q and m the `mixing` (generalised as in arXiv 2306.13649). The square of the temperature keeps
    gradients of one size for all temperatures (Hinton et al. 2015, arXiv 1503.02531).
    """

    kind: Kind = "forward"
    temperature: float = 1.0
    mixing: float = 0.5

    def __call__(self, teacher: Tensor, student: Tensor, scored: NDArray[np.bool_]) -> Tensor:
        """Mean over scored tokens (B, T) of logits (B, T, V)."""
        counted = torch.from_numpy(scored)
        wanted, own = ((logits[counted] / self.temperature).log_softmax(-1) for logits in (teacher, student))
        return self.between(wanted, own) * self.temperature**2

    def between(self, wanted: Tensor, own: Tensor) -> Tensor:
        """Mean of the divergences of log-probabilities (N, V)."""
        if self.kind == "forward":
            return kl(wanted, own)
        if self.kind == "reverse":
            return kl(own, wanted)
        share = torch.tensor(self.mixing)
        middle = torch.logaddexp(wanted + share.log(), own + (1 - share).log())
        return self.mixing * kl(wanted, middle) + (1 - self.mixing) * kl(own, middle)


def kl(true: Tensor, given: Tensor) -> Tensor:
    """Mean of KL(true || given) of log-probabilities (N, V), nats."""
    return functional.kl_div(given, true, reduction="batchmean", log_target=True)

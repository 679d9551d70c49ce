"""Number formats of weights and activations: largest code, rounding, storage, and their type in ONNX.

Everything is symmetric: zero points are 0. PyTorch is imported where tensors are rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NumberFormat:
    """A format whose weights are scaled to -`largest`..`largest`; activations saturate at `smallest` and `largest`.

    Codes are kept in memory as PyTorch's type `storage`, and are of type `kind` in a graph.
    """

    bits: int
    largest: float
    smallest: float
    storage: str
    kind: Any

    def rounded(self, scaled: Tensor, smallest: float, largest: float) -> Tensor:
        """The nearest values of the format, ties to even, in the type they came in; beyond the limits they saturate.

        So does QuantizeLinear, whatever a cast does.
        """
        if self.storage.startswith("int"):
            return scaled.round().clamp_(smallest, largest)
        import torch

        return scaled.clamp(smallest, largest).to(getattr(torch, self.storage)).to(scaled.dtype)


FORMATS = {
    "int8": NumberFormat(bits=8, largest=127.0, smallest=-128.0, storage="int8", kind=np.int8),
    "int4": NumberFormat(bits=4, largest=7.0, smallest=-8.0, storage="int8", kind=ml_dtypes.int4),
    "fp8": NumberFormat(bits=8, largest=448.0, smallest=-448.0, storage="float8_e4m3fn", kind=ml_dtypes.float8_e4m3fn),
}

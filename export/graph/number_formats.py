"""Number formats of weights and activations: codes, rounding, storage, type in ONNX, and what goes with them.

A format is one object in `FORMATS`: all that quantization, lowering and fusions ask of it is a field here. Activations
are symmetric (zero points are 0); so are weights, unless a layer asks for zero points. PyTorch is imported where
tensors are rounded.
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
    """A format whose weights have codes from `weights_from` to `largest`; activations saturate at `smallest`.

    Codes are kept in memory as PyTorch's type `storage`, and are of type `kind` in a graph (None: standard ONNX has no
    such type, and only kernels that unpack them know it). `activations` is the format that products with these weights
    round their inputs to, `static` whether with calibrated scales, `dynamic` with scales as they come. `groups` of
    inputs may have a scale each, and every scale a zero point, where the scales of activations are not static.
    """

    bits: int
    largest: float
    smallest: float
    weights_from: float
    storage: str
    kind: Any
    activations: str = "int8"
    static: bool = False
    dynamic: bool = True
    groups: bool = True

    def rounded(self, scaled: Tensor, smallest: float, largest: float) -> Tensor:
        """The nearest values of the format, ties to even, in the type they came in; beyond the limits they saturate.

        So does QuantizeLinear, whatever a cast does.
        """
        if self.storage.startswith("int"):
            return scaled.round().clamp_(smallest, largest)
        import torch

        return scaled.clamp(smallest, largest).to(getattr(torch, self.storage)).to(scaled.dtype)


FORMATS = {
    # -128 is left out, so that the negative of every weight is one too, and pairs can be limited (`saturation.py`).
    "int8": NumberFormat(
        bits=8, largest=127.0, smallest=-128.0, weights_from=-127.0, storage="int8", kind=np.int8, static=True
    ),
    "int4": NumberFormat(bits=4, largest=7.0, smallest=-8.0, weights_from=-8.0, storage="int8", kind=ml_dtypes.int4),
    "int2": NumberFormat(bits=2, largest=1.0, smallest=-2.0, weights_from=-2.0, storage="int8", kind=None),
    "fp8": NumberFormat(
        bits=8,
        largest=448.0,
        smallest=-448.0,
        weights_from=-448.0,
        storage="float8_e4m3fn",
        kind=ml_dtypes.float8_e4m3fn,
        activations="fp8",
        static=True,
        dynamic=False,
        groups=False,
    ),
}

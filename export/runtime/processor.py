"""What this processor does with products of 8-bit numbers, found by making one. NumPy and ONNX Runtime only."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime

# y = MatMulInteger(x, [[127], [127]]) as a model of opset 13; x is uint8 (1, 2), y int32 (1, 1).
PRODUCT = (
    b'\x08\x08:V\n\x18\n\x01x\n\x01w\x12\x01y"\rMatMulInteger\x12\x01g*\r\x08\x02\x08\x01\x10\x03B\x01wJ\x02\x7f\x7f'
    b"Z\x13\n\x01x\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x02"
    b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x01B\x04\n\x00\x10\r"
)
LARGEST_SUM = 2 * 255 * 127


class ProcessorWarning(UserWarning):
    """An engine is right on this processor, but was made for another and is slower here."""


@functools.cache
def products_saturate() -> bool:
    """Whether ONNX Runtime's products of unsigned activations and signed weights saturate here, as on x86 without VNNI.

    The processor's flags would not tell: an emulator may show those of its host.
    """
    session = onnxruntime.InferenceSession(PRODUCT, providers=["CPUExecutionProvider"])
    made = session.run(["y"], {"x": np.full((1, 2), 255, dtype=np.uint8)})[0]
    return int(made[0, 0]) != LARGEST_SUM


def exact_products(options: onnxruntime.SessionOptions) -> None:
    """Let a session multiply by kernels that do not saturate, where the processor's usual ones do.

    They add in 32 bits and are slower; where nothing saturates the entry changes nothing. ONNX Runtime's documentation
    of the entry: ``kOrtSessionOptionsAvx2PrecisionMode``.
    """
    options.add_session_config_entry("session.x64quantprecision", "1")


def runtime_version() -> str:
    """ONNX Runtime's version."""
    return str(onnxruntime.__version__)


def execution_providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime, in its order."""
    return list(onnxruntime.get_available_providers())

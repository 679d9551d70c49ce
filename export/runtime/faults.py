"""What a failed call of a graph has to say, in one line that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import EngineError, first_line


@contextmanager
def faults_said(folder: Path, file: str) -> Iterator[None]:
    """Run a graph of an engine's folder.

    Raises:
        EngineError: the graph cannot be run, or a device has no room for it.
    """
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise EngineError(
                f"{folder}: the device has no room for so many pictures at once; draw fewer ({first_line(error)})"
            ) from error
        if not from_runtime(error):
            raise
        raise EngineError(f"{folder / file}: ONNX Runtime cannot run it ({first_line(error)})") from error


def from_runtime(error: Exception) -> bool:
    """Whether ONNX Runtime raised it; of a failed step with bound buffers it makes a RuntimeError.

    An error that quotes a node whose name is not UTF-8 arrives as a UnicodeDecodeError.
    """
    bound = isinstance(error, RuntimeError) and str(error).startswith("Error in execution")
    return bound or isinstance(error, UnicodeDecodeError) or type(error).__module__.startswith("onnxruntime.")


def out_of_memory(error: Exception) -> bool:
    """Whether PyTorch found no room on a device."""
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")

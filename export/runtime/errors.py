"""What goes wrong with an engine, and how messages show it; standard library only, so importing it costs nothing."""

from __future__ import annotations

SHOWN = 200  # characters of a value, or of another library's text, in a message


class EngineError(Exception):
    """An engine that cannot be used, in one line: which file, what is wrong with it, and what would be right."""


class UnsoundLogitsError(EngineError, ValueError):
    """A model gave logits that nothing can be drawn from: NaN or infinity."""


class NoKernelsError(EngineError):
    """ONNX Runtime does not compute in the floats of an engine on this processor."""


class RunnerMissingError(Exception):
    """What runs or builds engines of a target cannot be used here, in one line: what is missing, what would help."""


class PlanWarning(UserWarning):
    """An engine has plans that do not run here, in one line: why, and that ONNX Runtime draws instead."""


class QueueFullError(Exception):
    """So many pictures wait that no more are accepted: try again later."""


class QueueClosedError(Exception):
    """The queue accepts nothing any more."""


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's text, kept short, or its kind where there is none: some libraries print graphs."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = line if line.isprintable() else repr(line)
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."

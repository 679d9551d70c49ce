"""What goes wrong with an engine; standard library only, so that every tool can name it at no cost."""

from __future__ import annotations


class EngineError(Exception):
    """An engine that cannot be used, in one line: which file, what is wrong with it, and what would be right."""


class UnsoundLogitsError(EngineError, ValueError):
    """A model gave logits that nothing can be drawn from: NaN or infinity."""


class RunnerMissingError(Exception):
    """What runs or builds engines of a target cannot be used here, in one line: what is missing, what would help."""

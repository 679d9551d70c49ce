"""Promises: what holds of every engine whatever a recipe's gates say; a result names those that it does not keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Broken:
    """A promise that a result does not keep."""

    measurement: str  # as a breach names it
    value: float
    limit: float
    text: str  # a clause that follows the name of the step, and a colon

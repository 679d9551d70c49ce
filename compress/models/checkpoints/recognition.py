"""Which family's names a checkpoint has, what stands before them, and which is the nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.settings import InputError
from compress.models.checkpoints.catalogue import published, torch_family

if TYPE_CHECKING:
    from compress.models.checkpoints.checkpoint import Checkpoint


def recognise(checkpoint: Checkpoint) -> str | None:
    """The published family that these names are of, if any."""
    return next((name for name in published() if torch_family(name).matches(checkpoint)), None)


def known(checkpoint: Checkpoint) -> bool:
    """Whether the names are a family's or an image tokenizer's."""
    from compress.models.tokenizer import formats

    return (recognise(checkpoint) or formats.recognise(checkpoint)) is not None


def without_prefix(checkpoint: Checkpoint, stated: str | None = None) -> Checkpoint:
    """The checkpoint without what stands before its names, if they are a family's or a tokenizer's then.

    Raises:
        InputError: they are behind several prefixes, or not behind the one that is stated.
    """
    if stated is not None:
        return checkpoint.behind(stated)
    if known(checkpoint):
        return checkpoint
    found = [(prefix, inner) for prefix in checkpoint.prefixes() if known(inner := checkpoint.behind(prefix))]
    if len(found) > 1:
        listed = ", ".join(f"'{prefix}'" for prefix, _ in found)
        raise InputError(
            f"{checkpoint.path}: the names of a model stand behind {listed}; state which to read: config.prefix, for "
            f"example  --set prefix={found[0][0]}"
        )
    return found[0][1] if found else checkpoint


def nearest_family(checkpoint: Checkpoint) -> str:
    """Which family most of a checkpoint's names fit, and the first name that is missing from it."""
    found = [torch_family(name) for name in published()]
    counts = {family.name: sum(each in checkpoint for each in family.expected) for family in found}
    best = max(found, key=lambda family: counts[family.name] / len(family.expected))
    if not counts[best.name]:
        return f"none of its {len(checkpoint)} names is one that {', '.join(counts)} has"
    first = next((each for each in best.expected if each not in checkpoint), None)
    if first is None:
        return f"the nearest is {best.name}: but its names are prefixed or mixed with others"
    twin = best.twins.get(first)
    tied = f"; it may be tied to '{twin}', which has its shape: then save that under this name too"
    return f"the nearest is {best.name}: '{first}' is missing{tied if twin in checkpoint else ''}"

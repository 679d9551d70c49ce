"""Whether a model and the reference that it is compared with speak of the same pictures."""

from __future__ import annotations

from compress.models.transformer.model import TokenTransformer
from compress.passes import PassError


def check_same_task(reference: TokenTransformer, student: TokenTransformer) -> None:
    """Refuse a reference that does not speak of the same tokens.

    Raises:
        PassError: names the numbers that differ.
    """
    for name in ("order", "vocabulary", "classes", "grid", "scales", "text"):
        theirs, own = getattr(reference.config, name), getattr(student.config, name)
        if theirs != own:
            raise PassError(f"the reference has {name} {theirs}, the model {own}; they must be equal")

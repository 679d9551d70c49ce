"""What a pass has to say of its work: a record that each pass extends, written into report.json as a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compress.core.settings import parse, plain, setting


@dataclass(frozen=True)
class Hoisted:
    """What a rewrite moved out of the steps of drawing."""

    nodes: int = setting(doc="nodes that moved")
    values: int = setting(doc="values that the steps read instead")
    weight_bytes: int = setting(doc="bytes of weights that a step no longer reads")
    row_bytes: int = setting(doc="bytes that a step reads more for each row")


@dataclass(frozen=True, kw_only=True)
class Notes:
    """The notes that other rooms read, whichever pass wrote them; a pass adds fields of its own. None is left out."""

    removed_layers: tuple[int, ...] | None = setting(None, doc="layers of its input that the result no longer has")
    fused: dict[str, int] | None = setting(None, doc="how often each fusion matched")
    hoisted: Hoisted | None = setting(None, doc="what runs once before the steps, since the pass")
    guidance: float | None = setting(None, doc="the scale of guidance that the result has inside, since the pass")
    not_built: str | None = setting(None, doc="why a runtime's own files were not built on this machine")

    def written(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {name: value for name, value in plain(self).items() if value is not None}

    @staticmethod
    def read(written: Mapping[str, Any], where: str = "notes") -> Notes:
        """The notes that every reader knows, from what `written` gave; those of one pass alone are left out.

        Raises:
            InputError: one is of another type.
        """
        return parse(Notes, {each.name: written[each.name] for each in fields(Notes) if each.name in written}, where)

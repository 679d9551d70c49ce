"""One change of a tree of mappings, lists and scalars, as JSON and YAML hold them."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 2**64, 10**25, -(10**25), 0.5, -0.5, 1e-320, 1e-300, 1e308, -1e308,
    math.nan, math.inf, -math.inf, "", " ", "x", "nan", "1", "0", "50%", "-1%", "nan%", "../x", "/dev/zero",
    "/", "~nobody",
    "a\x00b", "\u2028é", "a" * 3000, [], {}, [[]], [None], [0] * 1000, {"": 0}, {"a": {"b": [1, {}]}}, [1, "x", None],
)  # fmt: skip
UNKNOWN = "unknwon_kye"  # no key of anything


@dataclass(frozen=True)
class Change:
    """What was changed: the keys that lead there, how, and the values before and after."""

    path: tuple[str | int, ...]
    how: str
    old: Any
    new: Any

    @property
    def new_key(self) -> bool:
        """Whether a mapping has got a key that nothing knows."""
        return self.how in ("rename", "insert")

    @property
    def wrong_kind(self) -> bool:
        """Whether a value became one of another kind, which no default or shorthand explains."""
        if self.how != "replace" or self.new is None or self.old is None:
            return False
        if isinstance(self.old, bool):
            return not isinstance(self.new, bool)
        if isinstance(self.old, (int, float)) or (isinstance(self.old, str) and self.old.endswith("%")):
            if isinstance(self.new, str):
                return not self.new.endswith("%")
            return isinstance(self.new, (bool, list, dict)) or not math.isfinite(self.new)
        kind = next(kind for kind in (str, list, dict) if isinstance(self.old, kind))
        return not isinstance(self.new, kind)

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.how} {self.old!r:.60} -> {self.new!r:.60}"


def places(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value below the root."""
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    else:
        return []
    return [place for key, value in items for place in ((*path, key), *places(value, (*path, key)))]


def change(tree: Any, random: Random, within: tuple[str, ...] = ()) -> tuple[Any, Change]:
    """A changed copy, and what was changed; `within` names the keys of the root that are to be touched."""
    tree = copy.deepcopy(tree)
    path = random.choice([place for place in places(tree) if not within or place[0] in within])
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    last = path[-1]
    old = holder[last]
    how = random.choice(("replace", "replace", "replace", "delete", "rename", "insert", "nest", "double"))
    new: Any = None
    if how == "replace":
        new = copy.deepcopy(random.choice([value for value in NASTY if repr(value) != repr(old)]))
        holder[last] = new
    elif how == "delete":
        del holder[last]
    elif how == "nest":
        new = old
        for _ in range(random.choice((1, 3, 60))):
            new = [new] if random.random() < 0.5 else {"x": new}
        holder[last] = new
    elif how == "double":
        new = holder[last] = [old, old] if isinstance(holder, dict) else old
        if isinstance(holder, list):
            holder.insert(last, old)
    elif isinstance(holder, dict):
        new = typo(str(last), random) if how == "rename" else UNKNOWN
        holder[new] = holder.pop(last) if how == "rename" else 0
    else:
        how, new = "replace", math.nan
        holder[last] = new
    return tree, Change(path, how, old, new)


def typo(word: str, random: Random) -> str:
    """The word with two letters exchanged, or one more."""
    at = random.randrange(len(word) + 1)
    changed = word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]
    return changed if changed != word else f"{word}_"

"""A space of recipes: a recipe in which settings of steps have choices, and steps may be left out.

A setting is `{choose: [a, b, ...]}` or `{between: [low, high], step: s}`; a step with `optional: true` beside its name
may be there or not. Everything else is what a recipe may be, and is checked as one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from compress.core.settings import InputError, inside, shown, to_float
from compress.core.strict_yaml import read_yaml

CHOOSE: Final = "choose"
BETWEEN: Final = "between"
OPTIONAL: Final = "optional"
STEP, GATE = "step", "gate"
MOST_VALUES = 1000  # of one choice; a finer step tells nothing apart
WHOLE = Decimal("1e-9")  # how far a number of steps may be from a whole one, for numbers that were written rounded


@dataclass(frozen=True, eq=False)
class Choice:
    """One thing that a search decides: its name in tables, where it stands, and what it may be.

    `within` is the choice that says whether its step is there; the choice is not asked for where it is not.
    """

    name: str
    where: str
    kind: Literal["choose", "between", "optional"]
    values: tuple[Any, ...]
    within: Choice | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as a study and tables write them."""
        return tuple(label(value) for value in self.values)

    def value(self, said: Any) -> Any:
        """The value of a label; of a range the value that is nearest to a number."""
        if self.kind == BETWEEN:
            return min(self.values, key=lambda value: abs(value - said))
        return self.values[self.labels.index(said)]


@dataclass(frozen=True)
class Space:
    """The content of a space's file with a `Choice` in place of each choice, and the choices in the file's order."""

    path: Path
    value: dict[str, Any]
    choices: tuple[Choice, ...]

    @property
    def size(self) -> int:
        """How many combinations there are."""
        optional: dict[str, int] = {each.name: 1 for each in self.choices if each.kind == OPTIONAL}
        count = 1
        for each in self.choices:
            if each.within is not None:
                optional[each.within.name] *= len(each.values)
            elif each.kind != OPTIONAL:
                count *= len(each.values)
        return count * math.prod(1 + each for each in optional.values())

    def asked(self, picked: Mapping[str, Any]) -> Iterator[Choice]:
        """The choices that count, each after the one that it depends on; `picked` grows while they are asked."""
        for each in self.choices:
            if each.within is None or picked[each.within.name]:
                yield each

    def first(self) -> dict[str, Any]:
        """The first value of every choice; every step is there."""
        return {each.name: each.values[0] for each in self.choices}

    def recipe(self, picked: Mapping[str, Any]) -> dict[str, Any]:
        """The content of the recipe that these choices make."""
        made: dict[str, Any] = filled(self.value, picked)
        return made


def label(value: Any) -> str:
    """A value of a choice in a word."""
    return value if isinstance(value, str) else json.dumps(value)


def filled(value: Any, picked: Mapping[str, Any]) -> Any:
    """A content with what was picked in place of choices, without the steps that are left out."""
    if isinstance(value, Choice):
        return picked[value.name]
    if isinstance(value, list):
        return [filled(each, picked) for each in value if not left_out(each, picked)]
    if isinstance(value, dict):
        return {key: filled(each, picked) for key, each in value.items() if not is_optional(key, each)}
    return value


def is_optional(key: str, value: Any) -> bool:
    """Whether this is the mark of a step that may be left out."""
    return key == OPTIONAL and isinstance(value, Choice) and value.kind == OPTIONAL


def left_out(step: Any, picked: Mapping[str, Any]) -> bool:
    """Whether an item is a step that is left out."""
    mark = step.get(OPTIONAL) if isinstance(step, dict) else None
    return isinstance(mark, Choice) and mark.kind == OPTIONAL and not picked[mark.name]


def load(path: Path) -> Space:
    """Read a space and check its choices; nothing heavy is imported. `recipes.check` looks at what they stand in.

    Raises:
        InputError: it is no YAML, a choice is none or stands where none can, or there is no choice at all.
    """
    return of_value(read_yaml(path), path)


def of_value(value: Any, path: Path) -> Space:
    """The space that the content of a YAML file says; `path` names the file in messages."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: {shown(value)} is no space; write a recipe in which settings have choices")
    reader = Reader()
    made = {}
    for key, part in value.items():
        where = f"{path}: {key}"
        if key == "passes":
            made[key] = reader.chain(part, where, "")
        elif key == "engines" and isinstance(part, dict):
            made[key] = {name: reader.chain(each, f"{where}.{name}", f"{name}.") for name, each in part.items()}
        else:
            refuse_choices(part, where)
            made[key] = part
    if not reader.choices:
        raise InputError(
            f"{path}: nothing is searched for: no setting has a choice, such as  ratio: {{between: [0.1, 0.5], "
            "step: 0.1}, and no step is optional; `compress run` runs a recipe"
        )
    if isinstance(engines := value.get("engines"), dict) and len(engines) > 1:
        raise InputError(
            f"{path}: engines: names {', '.join(map(str, engines))}; a search compares one engine of each trial, leave "
            "one"
        )
    return Space(path, made, tuple(reader.choices))


def refuse_choices(value: Any, where: str) -> None:
    """Refuse choices outside of the settings of steps: trials would not be comparable."""
    if isinstance(value, dict):
        if CHOOSE in value or BETWEEN in value:
            raise InputError(f"{where}: {shown(value)}: only settings of steps may have choices; write one value")
        for key, each in value.items():
            refuse_choices(each, inside(where, str(key)))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            refuse_choices(each, f"{where}[{index}]")


@dataclass
class Reader:
    """Reads the chains of a space; the choices that were found so far."""

    choices: list[Choice] = field(default_factory=list)

    def add(self, choice: Choice) -> Choice:
        """Note a choice."""
        self.choices.append(choice)
        return choice

    def chain(self, items: Any, where: str, prefix: str) -> Any:
        """The steps of a chain; what is no list of steps is left as it is, for the recipe's own check."""
        if not isinstance(items, list):
            refuse_choices(items, where)
            return items
        taken: dict[str, int] = {}
        return [self.step(item, f"{where}[{index}]", prefix, taken) for index, item in enumerate(items)]

    def step(self, item: Any, where: str, prefix: str, taken: dict[str, int]) -> Any:
        """A step, named as reports name it."""
        passes = [key for key in item if key not in (GATE, OPTIONAL)] if isinstance(item, dict) else [item]
        if len(passes) != 1 or not isinstance(passes[0], str):
            refuse_choices(item, where)
            return item
        name = str(passes[0])
        taken[name] = taken.get(name, 0) + 1
        named = prefix + name + (f"#{taken[name]}" if taken[name] > 1 else "")
        if not isinstance(item, dict):
            return item
        if GATE in item:
            raise InputError(f"{where} {name}.gate: a search judges engines alone; give their limits as --budget")
        mark = item.get(OPTIONAL, False)
        if not isinstance(mark, bool):
            raise InputError(f"{where} {name}.optional: {shown(mark)} is not true or false")
        used = self.add(Choice(f"{named} used", f"{where} {name}", OPTIONAL, (True, False))) if mark else None
        made = {name: self.settings(item[name], f"{where} {name}", named, used)}
        return {**made, OPTIONAL: used} if used else made

    def settings(self, value: Any, where: str, name: str, within: Choice | None) -> Any:
        """A value inside of a step's settings, its choices found."""
        if isinstance(value, dict) and (CHOOSE in value or BETWEEN in value):
            if CHOOSE in value:
                return self.add(Choice(name, where, CHOOSE, chosen(value, where), within))
            return self.add(Choice(name, where, BETWEEN, spaced(value, where), within))
        if isinstance(value, dict):
            return {
                key: self.settings(each, inside(where, str(key)), f"{name}.{key}", within)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self.settings(each, f"{where}[{i}]", f"{name}[{i}]", within) for i, each in enumerate(value)]
        return value


def only(value: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse keys that do not belong to a choice."""
    for key in value:
        if key not in known:
            raise InputError(f"{where}: {shown(key)} does not belong to a choice, which has {' and '.join(known)}")


def chosen(value: dict[str, Any], where: str) -> tuple[Any, ...]:
    """What `choose` offers."""
    only(value, (CHOOSE,), where)
    offered = value[CHOOSE]
    if not isinstance(offered, list):
        raise InputError(f"{where}.choose: {shown(offered)} is not a list")
    if len(offered) < 2:
        raise InputError(
            f"{where}.choose: {shown(offered)} is no choice; offer two values at least, or write the value itself"
        )
    for index, each in enumerate(offered):
        refuse_choices(each, f"{where}.choose[{index}]")
        if label(each) in map(label, offered[:index]):
            raise InputError(f"{where}.choose: {shown(each)} stands twice")
    return tuple(offered)


def spaced(value: dict[str, Any], where: str) -> tuple[float, ...]:
    """The numbers of `between`, from low to high, as whole ones where all that was written is whole."""
    only(value, (BETWEEN, STEP), where)
    ends = value[BETWEEN]
    if not isinstance(ends, list) or len(ends) != 2:
        raise InputError(f"{where}.between: {shown(ends)} is not [low, high]")
    if STEP not in value:
        raise InputError(f"{where}: 'step' is missing; write for example  {{between: {shown(ends)}, step: 1}}")
    low, high = (exact(each, f"{where}.between[{index}]") for index, each in enumerate(ends))
    step = exact(value[STEP], f"{where}.step")
    if low >= high:
        raise InputError(f"{where}.between: low {low} is not below high {high}")
    if step <= 0:
        raise InputError(f"{where}.step: {step} is not above 0")
    steps = (high - low) / step
    count = int(steps.to_integral_value())
    if abs(steps - count) > WHOLE * max(steps, Decimal(1)):
        below = low + step * int(steps)
        raise InputError(
            f"{where}: steps of {step} from {low} do not end at {high}; write {below + step}"
            + (f" or {below}" if below > low else "")
        )
    if count >= MOST_VALUES:
        raise InputError(f"{where}: has {count + 1} values; at most {MOST_VALUES} are searched, take a larger step")
    whole = all(isinstance(each, int) for each in (*ends, value[STEP]))
    numbers = [low + step * index for index in range(count)] + [high]
    return tuple(int(each) if whole else float(each) for each in numbers)


def exact(value: Any, where: str) -> Decimal:
    """A number as it was written; a percentage is a share."""
    return Decimal(repr(value)) if isinstance(value, int) and not isinstance(value, bool) else decimal(value, where)


def decimal(value: Any, where: str) -> Decimal:
    """A number that need not be whole."""
    return Decimal(repr(to_float(value, where)))

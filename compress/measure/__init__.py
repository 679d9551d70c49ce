"""A measure is one thing that is measured of a model beside its reference; each file in the rooms here is one.

Measuring returns numbers and never judges: that is `compress.recipe.verdict`. A file that holds a subclass of `Measure`
is a measure of `run` and `verify` for that reason alone: its gates, its table and its keys in report.json follow from
the class. Third parties add theirs through the entry-point group `compress.measures`, whose entries name such a class.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator
from functools import cache

from compress.core.settings import InputError, one_line
from compress.measure.measure import Measure, is_measure
from compress.measure.measurement import EngineMeasurement, Measurement, own_names

ENTRY_POINTS = "compress.measures"
ROOMS = ("drift", "pictures", "speed")


def measures() -> tuple[type[Measure], ...]:
    """Every measure: those of the rooms, file by file, then those of third parties.

    Raises:
        InputError: one of a third party cannot be loaded, is none, or has a name that is taken.
    """
    return (*own(), *third_parties())


@cache
def own() -> tuple[type[Measure], ...]:
    """The measures in the rooms beside this file."""
    found = []
    for room in ROOMS:
        package = importlib.import_module(f"{__name__}.{room}")
        for file in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{file.name}")
            found += [each for each in vars(module).values() if is_measure(each) and each.__module__ == module.__name__]
    return tuple(found)


def third_parties() -> Iterator[type[Measure]]:
    """The measures that other packages add."""
    taken = {each.name for each in own()} | own_names(EngineMeasurement)
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS)):
        where = f"measure '{entry.name}' ({entry.value})"
        try:
            found = entry.load()
        except Exception as error:  # whatever their module raises
            said = one_line(f"{type(error).__name__}: {error}")
            raise InputError(f"{where}: cannot be loaded ({said}); mend or remove its package") from error
        if not is_measure(found):
            raise InputError(f"{where}: is no dataclass derived from compress.measure.Measure that has a name")
        if found.name in taken:
            raise InputError(f"{where}: the name '{found.name}' is taken; give it another")
        taken.add(found.name)
        yield found


__all__ = ["EngineMeasurement", "Measure", "Measurement", "measures"]

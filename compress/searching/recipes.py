"""From a space to recipes: each combination of choices is one, or contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compress.core.settings import ContradictionError, InputError
from compress.recipe import recipe as recipes
from compress.recipe.recipe import Recipe
from compress.searching.space import Space

TRIES = 200  # combinations that are looked at for one that is a recipe


def recipe_of(space: Space, picked: Mapping[str, Any]) -> Recipe:
    """The recipe that these choices make.

    Raises:
        ContradictionError: settings contradict each other.
        InputError: anything else is wrong.
    """
    return recipes.of_value(space.recipe(picked), space.path)


def check(space: Space) -> Recipe:
    """Hold every value of every choice to what a recipe may be; a recipe of the space.

    Values that contradict other choices are let be: trials find out, and cost nothing. No weight is read.

    Raises:
        InputError: the space is no recipe whatever is picked, or a value of a choice is wrong by itself.
    """
    base = possible(space)
    for choice in space.choices:
        ends = choice.values if choice.kind != "between" else (choice.values[0], choice.values[-1])
        for value in ends:
            try:
                recipe_of(space, {**base, choice.name: value})
            except ContradictionError:
                continue
            except InputError as error:
                if choice.kind != "optional":
                    raise
                raise InputError(f"{choice.where}.optional: it cannot be left out ({error})") from error
    return recipe_of(space, base)


def possible(space: Space) -> dict[str, Any]:
    """A combination that does not contradict itself: the first, or one drawn.

    Raises:
        InputError: there is none among those tried, or something is wrong in all of them.
    """
    generator = np.random.Generator(np.random.Philox(0))
    picked, last = space.first(), None
    for _ in range(TRIES):
        try:
            recipe_of(space, picked)
        except ContradictionError as error:
            last = error
            drawn = {each.name: each.values[generator.integers(len(each.values))] for each in space.choices}
            picked = {**drawn, **{each.name: True for each in space.choices if each.kind == "optional"}}
        else:
            return picked
    raise InputError(f"{last}; none of {TRIES} combinations of {space.path} is a recipe")

"""Arguments that are shares, files and folders: what a user wrote, checked before a verb begins."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from compress.core.settings import InputError, shown
from compress.core.user_files import user_path


class Share(click.FloatRange):
    """A share in a closed range; click lets NaN pass every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number in the range {self._describe_range()}.", param, ctx)
        return number


class UserPath(click.Path):
    """A path that a user wrote, with ``~`` as a home folder also where no shell wrote it out."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path.

        Raises:
            click.BadParameter: it is empty, an option whose path is missing, or no path on this system.
        """
        if not os.fspath(value):
            self.fail("it is empty; name a file or folder.", param, ctx)
        if (text := os.fsdecode(value)).startswith("--"):
            self.fail(f"{shown(text)} looks like an option; write ./ before the name of such a file.", param, ctx)
        try:
            return user_path(os.fsdecode(super().convert(value, param, ctx)))
        except InputError as error:
            self.fail(f"{error}.", param, ctx)


class StorePlace(UserPath):
    """The folder of a store, or the URL of one elsewhere, as text."""

    name = "path or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path or the URL."""
        if "://" not in os.fsdecode(value):
            return super().convert(value, param, ctx)
        import logging

        from compress.core.store.places import store_place

        # File systems run in asyncio, which writes tracebacks of what is said in one line here.
        logging.getLogger("asyncio").addHandler(logging.NullHandler())
        return store_place(os.fsdecode(value))


class RecipeFile(UserPath):
    """The file of a recipe, given by its path or by the name of a shipped one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        from compress.recipe.shipped import located

        return located(str(super().convert(value, param, ctx)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of shipped recipes, and files."""
        from compress.cli.completing import recipes

        return recipes(ctx, param, incomplete)


class GatesFile(UserPath):
    """The file of a set of gates, given by its path or by the name of a shipped one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        from compress.recipe.shipped import located_gates

        return located_gates(str(super().convert(value, param, ctx)))


class SpaceFile(UserPath):
    """The file of a space of recipes, given by its path or by the name of a shipped one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        from compress.recipe.shipped import located_space

        return located_space(str(super().convert(value, param, ctx)))


class OutputFile(UserPath):
    """A file that a verb writes in the end: that it can be is found out before the work."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path.

        Raises:
            click.BadParameter: it is a folder, or cannot be written.
        """
        path = super().convert(value, param, ctx)
        try:
            if path.is_dir():
                self.fail(f"'{path}' is a folder; name a file.", param, ctx)
            if not path.parent.is_dir():
                self.fail(f"'{path}': there is no folder '{path.parent}'.", param, ctx)
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                self.fail(f"'{path}' cannot be written (Permission denied).", param, ctx)
        except (OSError, ValueError) as error:
            self.fail(f"'{path}' cannot be written ({getattr(error, 'strerror', None) or error}).", param, ctx)
        return path

"""Find out whether a file of the user's hides a package of this project: Python looks beside a script first."""

from __future__ import annotations

import importlib.util
from pathlib import Path

HOME = Path(__file__).parents[2]
BESIDE = ("export", "calibration")  # the packages that are installed beside `compress`


class HiddenPackageError(ImportError):
    """Another module has the name of a package that this project needs; one line says which file it is."""


def check_packages() -> None:
    """Refuse to begin where another file would be imported in place of a package of this project.

    Raises:
        HiddenPackageError: names the file.
    """
    for name in BESIDE:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module that a program made by hand
            spec = None
        folders = [Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()]
        if (HOME / name).resolve() not in folders:
            found = (spec and spec.origin) or next(map(str, folders), None) or "nothing"
            raise HiddenPackageError(
                f"{found} hides the package '{name}' of compress; rename it, or start from another folder"
            )

"""A report: what a run made, measured and judged. It is kept as report.json; each file here shows it in one way."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from compress.core import durable
from compress.core.settings import InputError, parse, plain, setting
from compress.core.strict_json import read_json
from compress.core.user_files import user_path
from compress.measure import EngineMeasurement, Measurement, measures
from compress.measure.drift.evidence import Evidence
from compress.measure.drift.floor import Floor
from compress.measure.pictures.images import Sheet
from compress.measure.speed.environment import Environment
from compress.passes.shared.notes import Notes
from compress.recipe.verdict import Verdict

Row = TypeVar("Row", bound=Measurement)
FORMAT = 1
FILE = "report.json"


@dataclass(frozen=True)
class Report:
    """One run. The fields are the keys of report.json, in that order; docs/measuring.md documents every one."""

    verdict: Verdict = setting(doc="whether every gate of the recipe was kept")
    environment: Environment = setting(doc="machine and libraries that the measurements hold for")
    recipe: dict[str, Any] = setting(doc="the recipe as it was run, defaults filled in")
    reference: Measurement = setting(doc="the untouched model, which everything is compared with")
    steps: tuple[Measurement, ...] = setting(doc="the model after each pass, in order")
    engines: tuple[EngineMeasurement, ...] = setting(doc="the engines that the passes end in")
    floor: Floor | None = setting(None, doc="drift of the reference from itself; null where it is no PyTorch model")
    evidence: Evidence | None = setting(None, doc="whether the reference's predictions can show drift at all")
    pictures: dict[str, str] = field(
        default_factory=dict, metadata={"doc": "what a picture shows, and its file relative to the report"}
    )
    sheets: tuple[Sheet, ...] = setting((), doc="the same pictures as two files for each engine, laid out alike")
    command: str = setting("", doc="the command that makes this report again")
    format: int = setting(FORMAT, doc="version of this layout; keys may be added within one", low=FORMAT, high=FORMAT)


def write(report: Report, folder: Path) -> Path:
    """Write report.json into the folder, whole or not at all; its path.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    path = folder / FILE
    durable.write_text(path, json.dumps(plain(report), indent=2, allow_nan=False) + "\n")
    return path


def load(path: Path) -> Report:
    """Read a report.json.

    Raises:
        InputError: there is none, or it is not a report; the message says where.
    """
    if not os.path.lexists(user_path(path)):
        raise InputError(f"{path}: there is no report here; `compress run` writes one into its run folder")
    found = parse(Report, read_json(path), str(path))
    return replace(
        found,
        reference=known(found.reference, f"{path}.reference"),
        steps=tuple(known(row, f"{path}.steps[{index}]") for index, row in enumerate(found.steps)),
        engines=tuple(known(row, f"{path}.engines[{index}]") for index, row in enumerate(found.engines)),
    )


def known(row: Row, where: str) -> Row:
    """A row whose further measures are of their classes again; what is not installed here stays as it is.

    Raises:
        InputError: a measure that is installed found something else, or a note that all passes share is of another
            type.
    """
    Notes.read(row.notes, f"{where}.notes")
    classes, found = {each.name: each for each in measures()}, dict(row.measures)
    for name, value in row.measures.items():
        if name in classes and value is not None:
            found[name] = parse(classes[name], value, f"{where}.measures.{name}")
    return replace(row, measures=found)

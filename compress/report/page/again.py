"""The commands that measure a figure of a report again, for whoever does not believe it."""

from __future__ import annotations

import shlex
from pathlib import Path

from compress.measure import EngineMeasurement
from compress.measure.pictures.images import Sheet
from compress.report import Report


def words(*parts: object) -> str:
    """A command line of these parts."""
    return shlex.join(str(part) for part in parts)


def recipe_of(report: Report) -> str:
    """The recipe's path as it was given; `verify` and `bench` take it for its untouched model."""
    parts = shlex.split(report.command)
    return parts[2] if len(parts) > 2 else f"{report.recipe.get('name', 'recipe')}.yaml"


def tokens_of(report: Report) -> str:
    """The pictures of the recipe."""
    return str(report.recipe.get("tokens", {}).get("source", "digits"))


def run(report: Report) -> str:
    """Everything: what is in the store is not measured again, so another --store measures all."""
    return f"{report.command or words('compress', 'run', recipe_of(report))} --store {shlex.quote('another-store')}"


def drift(report: Report, engine: EngineMeasurement, folder: Path) -> str:
    """An engine's drift on the same pictures."""
    return words(
        "compress", "verify", recipe_of(report), folder / engine.folder, "--tokens", tokens_of(report),
        *(("--held-out", engine.fidelity.pictures) if engine.fidelity else ()),
    )  # fmt: skip


def layers(report: Report, engine: EngineMeasurement, folder: Path) -> str:
    """An engine's drift layer by layer."""
    return words("compress", "bisect", recipe_of(report), folder / engine.folder, "--tokens", tokens_of(report))


def speed(report: Report, engine: EngineMeasurement, folder: Path) -> str:
    """An engine's time beside that of the reference in PyTorch."""
    bench = report.recipe.get("bench", {})
    batches = ",".join(str(batch) for batch in bench.get("batch", (1,)))
    return words(
        "compress", "bench", recipe_of(report), folder / engine.folder, "--batch", batches,
        "--repeats", bench.get("repeats", 20), "--threads", bench.get("threads", 2),
    )  # fmt: skip


def pictures(engine: str, sheet: Sheet, folder: Path) -> str | None:
    """An engine's pictures; of texts there is no command without their features."""
    if not sheet.labels:
        return None
    labels = ",".join(str(label) for label in sheet.labels)
    return words("compress", "generate", engine or folder, "--labels", labels, "--seed", sheet.seed, "-o", "again.png")

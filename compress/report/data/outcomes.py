"""What a run came to, in a handful of numbers for each engine; those of earlier runs are kept in the run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from compress.core import durable
from compress.core.settings import InputError, digest, parse, plain, setting
from compress.core.strict_json import read_json
from compress.measure import Measurement
from compress.report import FILE, Report, load
from compress.report.text.cells import smallest_batch

HISTORY = "history.json"
MOST_EARLIER = 100  # outcomes; the oldest go first
ID_LETTERS = 8


@dataclass(frozen=True)
class Outcome:
    """One engine of one run."""

    run: str = setting(doc="the beginning of the report's hash")
    finished: str = setting(doc="when the report was written, UTC")
    engine: str = setting(doc="the engine's name")
    passed: bool = setting(doc="whether the run kept every gate")
    size_bytes: int = setting(doc="bytes on disk", low=0)
    kl: float | None = setting(doc="mean KL from the reference, nats per token")
    kl_ci95: tuple[float, float] | None = setting(doc="its interval")
    nll_drift: float | None = setting(doc="NLL drift, a share")
    nll_drift_ci95: tuple[float, float] | None = setting(doc="its interval")
    ms_per_token: float | None = setting(doc="time of a step at the smallest batch, milliseconds")
    speedup: float | None = setting(doc="over the reference, at the smallest batch")
    speedup_ci95: tuple[float, float] | None = setting(doc="its interval")


def outcome(model: Measurement, report: Report, finished: str = "") -> Outcome:
    """The outcome of one model of a report."""
    fidelity, speed = model.fidelity, smallest_batch(model)
    return Outcome(
        run=identity(report)[:ID_LETTERS],
        finished=finished,
        engine=model.name,
        passed=report.verdict.passed,
        size_bytes=model.size_bytes,
        kl=fidelity.kl if fidelity else None,
        kl_ci95=fidelity.kl_ci95 if fidelity else None,
        nll_drift=fidelity.nll_drift if fidelity else None,
        nll_drift_ci95=fidelity.nll_drift_ci95 if fidelity else None,
        ms_per_token=speed.ms_per_token if speed else None,
        speedup=speed.speedup_vs_reference if speed else None,
        speedup_ci95=speed.speedup_vs_reference_ci95 if speed else None,
    )


def identity(report: Report) -> str:
    """The hash of what report.json holds, whether it was read or is about to be written."""
    return digest(json.loads(json.dumps(plain(report))))


def remember(report: Report, folder: Path) -> None:
    """Before a new report is written: keep the outcomes of the one that it replaces, if that was another."""
    path = folder / FILE
    try:
        old, written = load(path), path.stat().st_mtime
    except (InputError, OSError):
        return  # there is none, or it is of an older layout
    if identity(old) == identity(report):
        return
    finished = datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M")
    kept = [*earlier(folder), *(outcome(engine, old, finished) for engine in old.engines)]
    lines = ",\n".join(json.dumps(plain(each)) for each in kept[-MOST_EARLIER:])
    durable.write_text(folder / HISTORY, f"[\n{lines}\n]\n")


def earlier(folder: Path) -> list[Outcome]:
    """The outcomes of earlier runs into this folder, oldest first; none where they cannot be read."""
    try:
        value = read_json(folder / HISTORY)
        return [parse(Outcome, each, HISTORY) for each in value]
    except (TypeError, InputError):
        return []

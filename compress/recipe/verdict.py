"""The verdict: a measurement held against a gate; what breaks it is a list of breaches, never an exception."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from compress.core.settings import MOST_BATCH, InputError, inside, parse, setting
from compress.measure import Measurement
from compress.measure.drift.evidence import LEAST_CONTRAST, Evidence
from compress.measure.speed.timing import SpeedRow
from compress.measure.statistics import Estimate, pictures_needed


@dataclass(frozen=True)
class Gate:
    """Limits that a measurement must keep; those left out are not judged.

    Shares may be written as percentages: `nll_drift: 2%` is 0.02.
    """

    nll_drift: float | None = setting(None, doc="most NLL drift, as a share of the reference's NLL", low=0, high=1)
    kl: float | None = setting(None, doc="most mean KL(reference || candidate), nats per token", low=0)
    agreement: float | None = setting(None, doc="least top-1 agreement with the reference, a share", low=0, high=1)
    max_abs_difference: float | None = setting(
        None, doc="most absolute difference of a logit from the previous step's; for exact passes", low=0
    )
    class_accuracy_drop: float | None = setting(
        None, doc="most class accuracy lost, a share of the pictures: 2% is two points", low=0, high=1
    )
    speedup: float | None = setting(None, doc="least speedup over the reference on the same runtime", low=0)
    speedup_batch: int | None = setting(
        None, doc="batch that speedup is judged at; every one timed if left out", low=1, high=MOST_BATCH
    )
    latency_ms: float | None = setting(None, doc="most time per token step, milliseconds, at the smallest batch", low=0)
    size: float | None = setting(None, doc="most bytes on disk, as a share of the reference's", low=0)
    peak_mib: float | None = setting(None, doc="most peak memory of the engine's process, MiB", low=0)
    low_precision_share: float | None = setting(
        None, doc="least share of matrix-product time that runs in low precision", low=0, high=1
    )
    decoder_psnr: float | None = setting(None, doc="least PSNR of the image decoder against the reference's, dB", low=0)
    decoder_ssim: float | None = setting(
        None, doc="least SSIM of the image decoder against the reference's", low=0, high=1
    )
    total_variation: float | None = setting(
        None, doc="most total variation of what is drawn from, after guidance, temperature and cuts", low=0, high=1
    )
    flip_rate: float | None = setting(
        None, doc="most tokens that fall differently with the same noise, a share", low=0, high=1
    )
    decide: Literal["interval", "estimate"] = setting(
        "interval", doc="judge the unfavourable end of the 95 % interval, or the estimate itself"
    )

    @property
    def limits(self) -> tuple[str, ...]:
        """The keys that limit something."""
        return tuple(key for key in UNITS if getattr(self, key) is not None)

    @property
    def judges_drift(self) -> bool:
        """Whether a limit of it is on drift from the reference's predictions."""
        return any(getattr(self, key) is not None for key in OF_DRIFT)


OF_FIDELITY = ("nll_drift", "kl", "agreement")
OF_SAMPLED = ("total_variation", "flip_rate")
OF_DRIFT = (*OF_FIDELITY, *OF_SAMPLED)
# How a number of each kind is written.
UNITS = {
    "nll_drift": "percent",
    "kl": "nats",
    "agreement": "percent",
    "max_abs_difference": "plain",
    "class_accuracy_drop": "points",
    "speedup": "times",
    "latency_ms": "ms",
    "size": "percent",
    "peak_mib": "MiB",
    "low_precision_share": "percent",
    "decoder_psnr": "dB",
    "decoder_ssim": "plain",
    "total_variation": "plain",
    "flip_rate": "percent",
}
AT_LEAST = ("agreement", "speedup", "low_precision_share", "decoder_psnr", "decoder_ssim")

OF_DECODERS = ("decoder_psnr", "decoder_ssim")  # what is measured of image decoders


def read_gate(value: object, where: str) -> Gate:
    """A gate that limits something; `where` names its place.

    Raises:
        InputError: a key is unknown, a limit is out of range, or there is no limit at all.
    """
    gate = parse(Gate, value, where)
    if not gate.limits:
        place = where.removesuffix(":")
        raise InputError(
            f"{place}: this gate limits nothing; write a limit, for example  nll_drift: 2%, or leave it out"
        )
    if gate.speedup_batch is not None and gate.speedup is None:
        raise InputError(f"{inside(where, 'speedup_batch')}: goes with speedup, which has no limit here")
    return gate


@dataclass(frozen=True)
class Breach:
    """One measurement that a gate does not let through."""

    step: str = setting(doc="the step's name")
    measurement: str = setting(doc="the gate's key")
    value: float | None = setting(doc="what was judged: the interval's end or the estimate; null if not measured")
    gate: float = setting(doc="the limit")
    text: str = setting(doc="the breach in one sentence")


@dataclass(frozen=True)
class Verdict:
    """Whether every gate was kept."""

    passed: bool = setting(doc="no gate was breached")
    breaches: tuple[Breach, ...] = setting(doc="every breach, in the order of the steps")

    @classmethod
    def of(cls, breaches: list[Breach]) -> Verdict:
        """The verdict that these breaches make."""
        return cls(not breaches, tuple(breaches))


def no_evidence(found: Evidence, step: str) -> Breach:
    """The breach of a comparison that cannot show drift: its gates are not kept, whatever was measured."""
    return Breach(step, "evidence", found.contrast, LEAST_CONTRAST, f"{step}: this is no evidence: {found.reason}")


@dataclass(frozen=True)
class Finding:
    """One number to judge, with its 95 % interval if it has one, and where it was measured."""

    value: float
    interval: tuple[float, float] | None = None
    place: str = ""


def judge(gate: Gate, measurement: Measurement, step: str) -> list[Breach]:
    """Every breach of the gate by this measurement of the named step.

    Numbers that have a 95 % interval are judged by its unfavourable end (so a gate that holds has been shown to hold,
    non-inferiority), unless the gate says `decide: estimate`. What was gated but not measured is a breach.
    """
    breaches = []
    for key in (field.name for field in fields(gate)):
        limit = getattr(gate, key)
        if key not in UNITS or limit is None:
            continue
        findings = list(found(key, gate, measurement))
        if not findings:
            text = f"{step}: {key} was not measured, so the gate's {say(key, limit)} cannot be shown to hold"
            breaches.append(Breach(step, key, None, limit, text))
        for finding in findings:
            judged = unfavourable(key, finding) if gate.decide == "interval" else finding.value
            kept = judged >= limit if key in AT_LEAST else judged <= limit  # false for NaN as well
            if not kept:
                text = sentence(step, key, finding, judged, limit) + more_pictures(key, finding, limit, measurement)
                breaches.append(Breach(step, key, judged, limit, text))
    return breaches


def found(key: str, gate: Gate, measurement: Measurement) -> Iterator[Finding]:
    """What the measurement has to say of a gate's key: nothing, one finding, or one for each row of speed."""
    fidelity, accuracy = measurement.fidelity, measurement.class_accuracy
    if key in OF_FIDELITY and fidelity is not None:
        yield Finding(getattr(fidelity, key), getattr(fidelity, f"{key}_ci95"))
    elif key in OF_SAMPLED and (sampled := measurement.sampled) is not None:
        yield Finding(getattr(sampled, key), getattr(sampled, f"{key}_ci95"))
    elif key == "max_abs_difference" and (nearer := measurement.fidelity_vs_previous or fidelity) is not None:
        yield Finding(nearer.max_abs_difference)
    elif key == "class_accuracy_drop" and accuracy is not None:
        yield Finding(accuracy.drop, accuracy.drop_ci95)
    elif key == "size" and measurement.size_share is not None:
        yield Finding(measurement.size_share)
    elif key == "low_precision_share" and measurement.low_precision_share is not None:
        yield Finding(measurement.low_precision_share)
    elif key in OF_DECODERS and (decoding := measurement.decoding) is not None:
        name = key.removeprefix("decoder_")
        yield Finding(getattr(decoding, name), getattr(decoding, f"{name}_ci95"))
    elif key in ("speedup", "latency_ms", "peak_mib"):
        for row in measurement.speed:
            yield from found_in_row(key, gate, row, min(other.batch for other in measurement.speed))


def found_in_row(key: str, gate: Gate, row: SpeedRow, smallest: int) -> Iterator[Finding]:
    """What one row of speed has to say of a gate's key."""
    place = f" at batch {row.batch}"
    if key == "speedup" and row.speedup_vs_reference is not None and gate.speedup_batch in (None, row.batch):
        yield Finding(row.speedup_vs_reference, row.speedup_vs_reference_ci95, place)
    elif key == "latency_ms" and row.batch == smallest:
        per_token = row.ms_per_token / row.median_ms
        yield Finding(row.ms_per_token, (row.ci95[0] * per_token, row.ci95[1] * per_token), place)
    elif key == "peak_mib" and row.peak_mib is not None:
        yield Finding(row.peak_mib, None, place)


def more_pictures(key: str, finding: Finding, limit: float, measurement: Measurement) -> str:
    """How many pictures would show that the gate holds, where the estimate keeps it and only the interval does not."""
    part = measurement.fidelity if key in OF_FIDELITY else measurement.sampled if key in OF_SAMPLED else None
    room = finding.value - limit if key in AT_LEAST else limit - finding.value
    if part is None or finding.interval is None or not (room > 0 and math.isfinite(sum(finding.interval))):
        return ""
    needed = pictures_needed(Estimate(finding.value, *finding.interval), part.pictures, room)
    return f"; the estimate keeps it, and about {needed} pictures instead of {part.pictures} would show that"


def unfavourable(key: str, finding: Finding) -> float:
    """The end of the interval that is worse for the candidate, or the value where there is no interval."""
    low, high = finding.interval or (finding.value, finding.value)
    return low if key in AT_LEAST else high


def sentence(step: str, key: str, finding: Finding, judged: float, limit: float) -> str:
    """The breach for a person to read; the interval's end is named where it, not the estimate, decides."""
    side, bound = ("below", "down") if key in AT_LEAST else ("above", "up")
    digits = next((n for n in range(3, 17) if say(key, judged, n) != say(key, limit, n)), 17)
    interval = f" (95 % interval {bound} to {say(key, judged, digits)})" if judged != finding.value else ""
    value = say(key, finding.value, digits)
    return f"{step}: {key} {value}{finding.place}{interval} is {side} the gate's {say(key, limit, digits)}"


def say(key: str, value: float, digits: int = 3) -> str:
    """A number in its unit, to so many significant digits."""
    unit = UNITS[key]
    if unit in ("percent", "points"):
        return f"{100 * value:.{digits}g} {'%' if unit == 'percent' else 'points'}"
    if unit == "times":
        return f"{value:.{digits}g}x"
    return f"{value:.{digits}g}" if unit == "plain" else f"{value:.{digits}g} {unit}"

"""The overview of a report as text cells, one row a model; the console table and the Markdown page both show it."""

from __future__ import annotations

from compress.measure import EngineMeasurement, Measurement
from compress.measure.drift.fidelity import Fidelity
from compress.measure.pictures.decoding import Decoding
from compress.measure.pictures.distribution import Distribution
from compress.measure.speed.plans import Plans, types_of
from compress.measure.speed.single_file import SingleFile
from compress.measure.speed.timing import NOISY, SpeedRow, words
from compress.measure.statistics import Estimate, pictures_needed
from compress.passes.shared.notes import Notes
from compress.report import Report
from compress.report.data.pays import DOES_NOT_PAY
from export.runtime.counted import counted

ABSENT = "–"
FEW_PICTURES = 100  # below it intervals of skewed values hold the truth a little less often than they say
FINER_DRIFT, FINER_KL = 0.001, 0.05  # half-widths of intervals that the report tells the price of
DRIFT, SPEED = ("NLL drift %", "KL", "agree %"), ("ms/token", "vs previous", "vs reference")
HEADERS = ("step", "weights", "size", *DRIFT, *SPEED, "flags")


def overview(report: Report) -> list[tuple[str, ...]]:
    """A row for the reference, each step and each engine; speed is that of the smallest batch."""
    return [row(model, report) for model in (report.reference, *report.steps, *report.engines)]


def row(model: Measurement, report: Report) -> tuple[str, ...]:
    """The cells of one model, as HEADERS names them."""
    fidelity, speed = model.fidelity, smallest_batch(model)
    step = None if isinstance(model, EngineMeasurement) else speed  # an engine is held against the reference alone
    return (
        model.name,
        count(model.parameters),
        size(model.size_bytes),
        signed_percent(fidelity.nll_drift, fidelity.nll_drift_ci95) if fidelity else ABSENT,
        f"{fidelity.kl:.2g}" if fidelity else ABSENT,
        f"{100 * fidelity.agreement:.1f}" if fidelity else ABSENT,
        f"{speed.ms_per_token:.3f}" if speed else ABSENT,
        words(step.speedup_vs_previous, step.speedup_vs_previous_ci95) if step else ABSENT,
        words(speed.speedup_vs_reference, speed.speedup_vs_reference_ci95) if speed else ABSENT,
        ", ".join(marks(model, report)) or "ok",
    )


def marks(model: Measurement, report: Report) -> list[str]:
    """The flags of a model in a word or two each."""
    found = ["breach"] if any(breach.step == model.name for breach in report.verdict.breaches) else []
    if model.pays:
        found.append(DOES_NOT_PAY if model.pays.startswith(DOES_NOT_PAY) else "see below")
    if isinstance(model, EngineMeasurement) and model.built:
        found.append(model.built.partition(":")[0])
    return found


def flagged(report: Report) -> list[str]:
    """A line for each model of which something must be known."""
    models = (report.reference, *report.steps, *report.engines)
    return [f"{model.name}: {'; '.join(said)}" for model in models if (said := flags(model))]


def flags(model: Measurement) -> list[str]:
    """What a reader must know of a model, in sentences: what does not pay, low precision, fusions, what is missing."""
    said = [model.pays] if model.pays else []
    if model.low_precision_share is not None:
        said.append(f"{100 * model.low_precision_share:.0f} % of matrix-product time in low precision")
    if (accuracy := model.class_accuracy) is not None:
        said.append(
            f"{100 * accuracy.accuracy:.1f} % of {counted(accuracy.pictures, 'picture')} recognised as their class "
            f"(reference {100 * accuracy.reference_accuracy:.1f} %)"
        )
    if (decoding := model.decoding) is not None and not decoding.equal:
        said.append(decoder(decoding))
    if isinstance(model, EngineMeasurement) and model.distribution is not None:
        said.append(as_sets(model.distribution))
    notes = Notes.read(model.notes)
    if notes.guidance is not None:
        said.append(f"guidance {notes.guidance:g} is inside from here on: compared with the guided reference, one row")
    if notes.fused:
        said.append("fused " + ", ".join(f"{name} {count}" for name, count in notes.fused.items()))
    if isinstance(model, EngineMeasurement) and model.single_file is not None:
        said.append(in_one_file(model.single_file))
    if (hoisted := notes.hoisted) is not None:
        less, more = size(hoisted.weight_bytes), size(hoisted.row_bytes)
        said.append(
            f"hoisted {counted(hoisted.nodes, 'node')}: a step reads {less} of weights less, and {more} more "
            "for each row"
            if hoisted.nodes
            else "hoisted nothing: no weights are read for the class or the text alone"
        )
    if noisy := [row.batch for row in model.speed if row.noise is not None and row.noise > NOISY]:
        said.append(f"the machine was noisy at batch {', '.join(map(str, dict.fromkeys(noisy)))}: trust ratios only")
    if (plans := model.result(Plans.name)) is not None:
        said.append(f"products of a step: {types_of(plans.parts)}")
    if isinstance(model, EngineMeasurement) and model.built:
        said.append(model.built)
    return said


def as_sets(found: Distribution) -> str:
    """How far the pictures are from the reference's as a set, in one phrase."""
    own, floor = found.own, found.floor
    thin = ", too few pictures for as many features" if found.thin else ""
    return (
        f"{found.distance} {own.frechet:.3g} ({own.frechet_ci95[0]:.3g} to {own.frechet_ci95[1]:.3g}; the reference "
        f"against itself {floor.frechet:.3g}) over {counted(found.pictures, 'picture')}{thin}"
    )


def in_one_file(found: SingleFile) -> str:
    """What the one file costs, in one phrase."""
    low, high = found.ratio_ci95
    return f"in one file {found.ratio:.2f} times ({low:.2f} to {high:.2f}) the time of step by step"


def decoder(found: Decoding) -> str:
    """What an image decoder lost and won, in one phrase."""
    won = f", {words(found.speedup, found.speedup_ci95)} to decode a picture" if found.speedup else ""
    return f"image decoder {found.psnr:.1f} dB PSNR, SSIM {found.ssim:.4f}{won}"


def trust(report: Report) -> list[str]:
    """Whether the measurements are evidence, how much of the drift is noise, and how precisely it is known."""
    said = []
    if (found := report.evidence) is not None:
        said.append(
            f"The reference can show drift: its predictions have {100 * found.entropy:.0f} % of the entropy of equal "
            f"odds, and a wholly wrong context would cost {found.contrast:.3g} nats."
            if found.sound
            else f"This is no evidence: {found.reason}."
        )
    if (floor := report.floor) is not None:
        said.append(
            f"Noise floor: the reference differs from itself by a KL of {floor.runtime.kl:.2g} nats per token in ONNX "
            f"Runtime instead of PyTorch, and by {floor.bf16.kl:.2g} in bf16 instead of fp32."
        )
    said += [f"{engine.name}: {precision(engine.fidelity)}" for engine in report.engines if engine.fidelity]
    return said


def precision(found: Fidelity) -> str:
    """How precisely drift is known, and how many pictures a finer answer needs."""
    drift = Estimate(found.nll_drift, *found.nll_drift_ci95)
    half, finer = (drift.high - drift.low) / 2, FINER_DRIFT
    said = f"NLL drift is known to {100 * half:.2g} points either way with {counted(found.pictures, 'picture')}"
    if half > finer:
        said += f"; for {100 * finer:g} points about {pictures_needed(drift, found.pictures, finer):,} are needed"
    kl = Estimate(found.kl, *found.kl_ci95)
    if found.kl > 0:
        said += f". KL is known to {50 * (kl.high - kl.low) / kl.value:.2g} %"
        if kl.high - kl.low > 2 * FINER_KL * kl.value:
            needed = pictures_needed(kl, found.pictures, FINER_KL * kl.value)
            said += f"; for {100 * FINER_KL:g} % about {needed:,} are needed"
    if drift.low <= 0 <= drift.high:
        said += ". There is no measurable change of the NLL: the interval holds 0"
    if found.pictures < FEW_PICTURES:
        said += f". {counted(found.pictures, 'picture')} are few: hold out {FEW_PICTURES} or more where a gate decides"
    return said + "."


def smallest_batch(model: Measurement) -> SpeedRow | None:
    """The row of speed that the overview shows."""
    return min(model.speed, key=lambda row: row.batch, default=None)


def count(number: int) -> str:
    """A number of weights, e.g. 6.51 M."""
    for unit, size_of in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size_of:
            return f"{number / size_of:.3g} {unit}"
    return str(number)


def size(size_bytes: int) -> str:
    """Bytes, e.g. 26.1 MB (decimal units)."""
    return count(size_bytes) + ("B" if size_bytes >= 1000 else " B")


def signed_percent(value: float, ci95: tuple[float, float]) -> str:
    """A share and its interval in percent, with signs."""
    return f"{100 * value:+.2f} ({100 * ci95[0]:+.2f} to {100 * ci95[1]:+.2f})"

"""Whether a step pays against the step before it, and an engine against the reference: said in words."""

from __future__ import annotations

from compress.measure import Measurement
from compress.measure.drift.fidelity import Fidelity
from compress.measure.speed.timing import NO_CHANGE, changed

DOES_NOT_PAY = "does not pay"
WORTH_SAYING = 0.01  # a change of bytes below 1 % is headers and padding
DRIFT_WORTH_SAYING = 1e-4  # 0.01 % of the NLL: rounding of two fp32 kernels stays far below

Speedup = tuple[int, float | None, tuple[float, float] | None]  # batch, ratio, its 95 % interval


def step_pays(step: Measurement, previous: Measurement) -> str:
    """Empty if the step draws faster somewhere and slower nowhere, or was not timed and is smaller; else why not.

    A step that changes the form (export, build) is needed whatever it wins, and is never flagged; nor is an exact one
    that was not timed, because its runtime is not here. The sentence begins with "does not pay" where nothing at all
    was won; otherwise it names what was won instead.
    """
    if step.form != previous.form:
        return ""
    speedups = [(row.batch, row.speedup_vs_previous, row.speedup_vs_previous_ci95) for row in step.speed]
    share = step.size_bytes / previous.size_bytes if previous.size_bytes else 1.0
    return balance(speedups, share, step.fidelity_vs_previous, untimed_pays=step.exact)


def engine_pays(engine: Measurement) -> str:
    """The same of the whole engine against the reference; one that was not timed is never flagged."""
    speedups = [(row.batch, row.speedup_vs_reference, row.speedup_vs_reference_ci95) for row in engine.speed]
    share = 1.0 if engine.size_share is None else engine.size_share
    why = balance(speedups, share, engine.fidelity, untimed_pays=True)
    return f"{why} (against the reference)" if why else ""


def balance(speedups: list[Speedup], size_share: float, fidelity: Fidelity | None, untimed_pays: bool) -> str:
    """What was lost against another model, and won instead; empty if that pays."""
    pairs = [(batch, value, ci95) for batch, value, ci95 in speedups if value is not None and ci95 is not None]
    faster = [(batch, value) for batch, value, ci95 in pairs if changed(ci95) and value > 1]
    slower = [(batch, value) for batch, value, ci95 in pairs if changed(ci95) and value < 1]
    saved = 1 - size_share
    drift, drift_ci95 = (fidelity.nll_drift, fidelity.nll_drift_ci95) if fidelity else (0.0, (0.0, 0.0))

    won = [f"{value:.2f}x faster at batch {batch}" for batch, value in faster]
    if saved > WORTH_SAYING:
        won.append(f"{saved:.0%} fewer bytes".replace("%", " %"))
    if drift_ci95[1] < 0 and drift < -DRIFT_WORTH_SAYING:
        won.append(f"NLL {-100 * drift:.2g} % lower")
    if (faster or (not pairs and (won or untimed_pays))) and not slower:
        return ""

    lost = [f"{value:.2f}x the speed at batch {batch}" for batch, value in slower]
    if pairs and not faster and not slower:
        lost.append(f"{NO_CHANGE} in speed")
    if drift_ci95[0] > 0 and drift > DRIFT_WORTH_SAYING:
        lost.append(f"NLL {100 * drift:.2g} % higher")
    if not won:
        if saved < -WORTH_SAYING:
            lost.append(f"{-saved:.0%} more bytes".replace("%", " %"))
        elif pairs:
            lost.append("no fewer bytes")
        return f"{DOES_NOT_PAY}: {', '.join(lost) or 'nothing changed'}"
    return f"{', '.join(lost)}; but {', '.join(won)}"

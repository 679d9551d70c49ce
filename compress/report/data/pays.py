"""Whether a step pays: said in words, from what it won and what it cost against the step before it."""

from __future__ import annotations

from compress.measure import Measurement
from compress.measure.speed.timing import NO_CHANGE, changed

DOES_NOT_PAY = "does not pay"
WORTH_SAYING = 0.01  # a change of bytes below 1 % is headers and padding
DRIFT_WORTH_SAYING = 1e-4  # 0.01 % of the NLL: rounding of two fp32 kernels stays far below


def pays(step: Measurement, previous: Measurement) -> str:
    """Empty if the step draws faster somewhere and slower nowhere, or was not timed and is smaller; else why not.

    A step that changes the form (export, build) is needed whatever it wins, and is never flagged.
    The sentence begins with "does not pay" where nothing at all was won; otherwise it names what was won instead.
    """
    if step.form != previous.form:
        return ""
    timed = [(row, row.speedup_vs_previous, row.speedup_vs_previous_ci95) for row in step.speed]
    pairs = [(row.batch, value, ci95) for row, value, ci95 in timed if value is not None and ci95 is not None]
    faster = [(batch, value) for batch, value, ci95 in pairs if changed(ci95) and value > 1]
    slower = [(batch, value) for batch, value, ci95 in pairs if changed(ci95) and value < 1]
    saved = 1 - step.size_bytes / previous.size_bytes if previous.size_bytes else 0.0
    drift, drift_ci95 = drift_vs_previous(step)

    won = [f"{value:.2f}x faster at batch {batch}" for batch, value in faster]
    if saved > WORTH_SAYING:
        won.append(f"{saved:.0%} fewer bytes".replace("%", " %"))
    if drift_ci95[1] < 0 and drift < -DRIFT_WORTH_SAYING:
        won.append(f"NLL {-100 * drift:.2g} % lower")
    if (faster or (not pairs and won)) and not slower:
        return ""

    if step.exact and not step.speed and not won:
        return ""  # its runtime is not here, so nothing is known of its speed

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


def drift_vs_previous(step: Measurement) -> tuple[float, tuple[float, float]]:
    """NLL drift against the previous step as a share, with its interval; zero where it was not measured."""
    fidelity = step.fidelity_vs_previous
    return (fidelity.nll_drift, fidelity.nll_drift_ci95) if fidelity else (0.0, (0.0, 0.0))

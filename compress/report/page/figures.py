"""The figures of a report: each is a plot, what to know when reading it, its numbers as a table, and its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from compress.measure import EngineMeasurement, Measurement
from compress.measure.drift.layers import LayerDrift
from compress.measure.speed.timing import SpeedRow, changed, words
from compress.report import Report
from compress.report.data.outcomes import Outcome
from compress.report.page.markup import Markup, Table, element, table
from compress.report.page.plots import SERIES, Bar, Bubble, Line, bars, bubbles, legend, lines
from compress.report.text.cells import ABSENT, signed_percent, size, smallest_batch

Part = TypeVar("Part")
BY_LAYER = "Drift by layer"
RELATIVE_TIME = "time as a share of the reference's, in the same rounds"
LOWEST = 1e-5  # a curve on a logarithmic axis is drawn down to this share of the highest value


class Figure(Markup):
    """A figure as markup, which keeps its plot, its numbers and what its marks are called for files of their own."""

    drawn: Markup
    numbers: Table
    names: Sequence[tuple[str, str]]  # what is written beside a mark, or nothing for the next line; and its name


def figure(
    drawn: Markup,
    caption: str,
    numbers: Table,
    command: str | None,
    *,
    key: Markup | None = None,
    names: Sequence[tuple[str, str]] = (),
    alone: bool = False,
) -> Figure:
    """A plot with its caption, its numbers as a table, and the command that makes it again.

    `names` says what `key` says, for the plot as a file.
    """
    made = element(
        "figure",
        drawn,
        key,
        element("figcaption", caption),
        element("details", element("summary", "The numbers of this figure"), numbers),
        again(command),
        class_="alone" if alone else None,
    )
    found = Figure(made)
    found.drawn, found.numbers, found.names = drawn, numbers, names
    return found


def again(command: str | None) -> Markup | None:
    """The command that measures a figure again."""
    if command is None:
        return None
    button = element("button", "copy", type="button", class_="copy", hidden=True)
    return element("p", "Measure again: ", element("code", command), button, class_="again")


def models(report: Report) -> tuple[Measurement, ...]:
    """Every row of a report."""
    return (report.reference, *report.steps, *report.engines)


def chains(report: Report) -> list[tuple[Measurement, Measurement]]:
    """Each step with the one it was made from: the last of its own chain, or of the trunk."""
    last: dict[str, Measurement] = {"": report.reference}
    pairs = []
    for step in report.steps:
        head, dot, _ = step.name.partition(".")
        chain = head if dot and any(engine.name == head for engine in report.engines) else ""
        pairs.append((step, last.get(chain, last[""])))
        last[chain] = step
    return pairs


def reached(row: SpeedRow | None) -> float:
    """A model's speedup over the reference, whose own is 1."""
    return row.speedup_vs_reference or 1.0 if row else 1.0


def speed_waterfall(report: Report, command: str | None) -> Figure | None:
    """What each pass won in speed, and what all won together."""
    rows, cells = [], []
    for step, source in chains(report):
        if (row := smallest_batch(step)) is None or row.speedup_vs_reference is None:
            continue
        interval = row.speedup_vs_previous_ci95
        kind = "same"
        if interval and changed(interval):
            kind = "better" if interval[0] > 1 else "worse"
        won = words(row.speedup_vs_previous, interval)
        label = "no change" if kind == "same" and interval else won
        rows.append(Bar(step.name, reached(smallest_batch(source)), row.speedup_vs_reference,
                        row.speedup_vs_reference_ci95, label, kind))  # fmt: skip
        cells.append((step.name, won, ratio(row.speedup_vs_reference, row.speedup_vs_reference_ci95)))
    if not rows:
        return None
    batch = min(row.batch for step in report.steps for row in step.speed)
    title = f"Speedup of each pass at batch {batch}, as a waterfall"
    return figure(
        bars(rows, title, "speedup over the reference", log=True, chained=True),
        "Each bar leads from the speedup before the pass to that after it; the thin line is the 95 % interval of the "
        "whole speedup. To the right stands what the pass itself won, measured against the step before it; where that "
        "interval holds 1 there was no measurable change, or it was too noisy to tell.",
        table(("step", "against the step before", "against the reference"), cells, caption=title),
        command,
    )


def drift_waterfall(report: Report, command: str | None) -> Figure | None:
    """What each pass lost in likelihood, and what all lost together."""
    rows, cells = [], []
    for step, source in chains(report):
        if step.fidelity is None:
            continue
        before = source.fidelity.nll_drift if source.fidelity else 0.0
        own = step.fidelity_vs_previous.nll_drift_ci95 if step.fidelity_vs_previous else (0.0, 0.0)
        kind = "worse" if own[0] > 0 else "better" if own[1] < 0 else "same"
        moved = f"{round(100 * (step.fidelity.nll_drift - before), 2) + 0.0:+.2f}"  # + 0.0: never -0.00
        rows.append(Bar(step.name, before, step.fidelity.nll_drift, step.fidelity.nll_drift_ci95,
                        moved, kind))  # fmt: skip
        cells.append((step.name, moved, signed_percent(step.fidelity.nll_drift,
                      step.fidelity.nll_drift_ci95)))  # fmt: skip
    if not rows:
        return None
    title = "NLL drift of each pass in percent, as a waterfall"
    return figure(
        bars(rows, title, "NLL drift from the reference, %", chained=True, unit=100),
        "Each bar leads from the drift before the pass to that after it; the thin line is the 95 % interval of the "
        "whole drift. To the right stands what the pass added, in points. Grey: the interval of the pass's own drift "
        "holds 0.",
        table(("step", "added, points", "drift %, 95 % interval"), cells, caption=title),
        command,
    )


def pareto(report: Report, before: Sequence[Outcome], command: str | None) -> Figure | None:
    """Drift against relative time of everything that was timed, and of the engines of earlier runs.

    Times are those of the same rounds, so that earlier runs, of another hour, may stand beside.
    """
    points, cells = [], []
    ends = {engine.artifact for engine in report.engines if engine.artifact}
    for number, model in enumerate((report.reference, *report.steps)):
        if (row := smallest_batch(model)) is None:
            continue
        kind = "reference" if model is report.reference else "engine" if model.artifact in ends else "step"
        kl, interval = (model.fidelity.kl, model.fidelity.kl_ci95) if model.fidelity else (0.0, None)
        share, times = relative(row.speedup_vs_reference, row.speedup_vs_reference_ci95)
        if row.speedup_vs_reference is None and model is not report.reference:
            continue  # of another runtime
        hint = f"{model.name}: KL {kl:.3g} nats, {share:.3g} of the reference's time, {size(model.size_bytes)}"
        points.append(Bubble(share, kl, model.size_bytes, str(number), hint, interval, kind, x_interval=times))
        cells.append((str(number), model.name, f"{share:.3g}", f"{kl:.3g}", size(model.size_bytes)))
    for number, old in enumerate(before, start=1):
        if old.speedup is None or old.kl is None:
            continue
        share, times = relative(old.speedup, old.speedup_ci95)
        mark, name = f"r{number}", f"{old.engine}, run {old.run} of {old.finished}"
        hint = f"{name}: KL {old.kl:.3g} nats, {share:.3g} of the reference's time, {size(old.size_bytes)}"
        points.append(Bubble(share, old.kl, old.size_bytes, mark, hint, old.kl_ci95, "earlier", 1, times))
        cells.append((mark, name, f"{share:.3g}", f"{old.kl:.3g}", size(old.size_bytes)))
    if len(points) < 2:
        return None
    title = "Drift against latency of every step" + (" and of earlier runs" if before else "")
    key = element("ul", *(element("li", element("b", mark), f" {name}") for mark, name, *_ in cells), class_="legend")
    return figure(
        bubbles(points, title, RELATIVE_TIME, "KL from the reference, nats per token"),
        "Lower left is better; the area of a bubble is its size on disk, thin lines are 95 % intervals. Full bubbles "
        "are engines, broken ones earlier runs into this folder. The broken line joins what nothing else measurably "
        "beats.",
        table(("", "model", "time / reference's", "KL, nats", "size"), cells, caption=title, words=("model",)),
        command,
        key=key,
        names=[(mark, name) for mark, name, *_ in cells],
        alone=True,
    )


def relative(speedup: float | None, ci95: tuple[float, float] | None) -> tuple[float, tuple[float, float] | None]:
    """The time as a share of the reference's in the same rounds, and its interval; 1 of the reference itself."""
    return (1.0 if speedup is None else 1 / speedup), (None if ci95 is None else (1 / ci95[1], 1 / ci95[0]))


def told_apart(
    report: Report, part: Callable[[Measurement], Part | None], floor: Part | None
) -> list[tuple[str, Part]]:
    """What is drawn as lines: engines, lossy steps while colours last, and the reference in bf16 behind them."""
    models = [*report.engines, *(step for step in report.steps if not step.exact)]
    found = [(model.name, measured) for model in models if (measured := part(model))]
    last = [("the reference in bf16", floor)] if floor else []
    return [*found[: SERIES - len(last)], *last]


def positions(report: Report, command: str | None) -> Figure | None:
    """Where along a picture the drift is, with the noise floor below it."""
    found = told_apart(report, lambda model: model.fidelity, report.floor.bf16 if report.floor else None)
    curves = [(name, fidelity.curve) for name, fidelity in found if len(fidelity.curve.at) > 1]
    if not curves:
        return None
    lowest = LOWEST * max(value for _, curve in curves for value in curve.kl) or LOWEST
    series = []
    for index, (name, curve) in enumerate(curves):
        banded = index < len(report.engines)
        low, high = ([max(value, lowest) for value in ends] for ends in (curve.kl_low, curve.kl_high))
        series.append(
            Line(
                name,
                curve.at,
                [max(value, lowest) for value in curve.kl],
                low if banded else (),
                high if banded else (),
            )
        )
    axis = curves[0][1].axis
    what = {"position": "position, in order of drawing", "scale": "scale", "share masked": "share of masked positions"}
    title = f"Drift by {axis}"
    cells = [
        [f"{at:g}", *(f"{curve.kl[index]:.3g}" if index < len(curve.kl) else ABSENT for _, curve in curves)]
        for index, at in enumerate(curves[0][1].at)
    ]
    return figure(
        lines(series, title, what[axis], "KL, nats per token", log=True),
        "Mean KL from the reference; bands are 95 % intervals over pictures. The reference in bf16 is a noise floor: "
        "drift of that size says nothing of a candidate.",
        table((axis, *(name for name, _ in curves)), cells, caption=title),
        command,
        key=legend([name for name, _ in curves]),
        names=[("", name) for name, _ in curves],
    )


def by_layer(report: Report, command: str | None) -> Figure | None:
    """How the error of hidden states grows from layer to layer, with the noise floor below it."""
    found = told_apart(report, lambda model: model.layers, report.floor.layers if report.floor else ())
    if not any(len(rows) > 1 for _, rows in found):
        return None
    places = sorted({row.name for _, rows in found for row in rows}, key=layer_number)
    cells = []
    for place in places:
        at = [next((row for row in rows if row.name == place), None) for _, rows in found]
        said = [f"{row.relative_error:.2g}; {row.sqnr_db:.1f}; {row.cosine:.5f}" if row else ABSENT for row in at]
        cells.append([place, *said])
    return figure(
        layer_lines(found),
        "Error of the residual stream behind each layer, as a share of the reference's stream, both reading the same "
        "held-out tokens. Layers that were pruned have no point. Where a line jumps, that layer made the error; "
        "compress bisect looks inside it.",
        table(("relative error; SQNR dB; cosine", *(name for name, _ in found)), cells, caption=BY_LAYER),
        command,
        key=legend([name for name, _ in found]),
        names=[("", name) for name, _ in found],
    )


def layer_lines(found: Sequence[tuple[str, Sequence[LayerDrift]]]) -> Markup:
    """Relative error of hidden states against the layer, a line for each name."""
    lowest = LOWEST * max(row.relative_error for _, rows in found for row in rows) or LOWEST
    series = [
        Line(name, [layer_number(row.name) for row in rows], [max(row.relative_error, lowest) for row in rows])
        for name, rows in found
    ]
    across = "layer of the reference; 0 is the embedding"
    return lines(series, BY_LAYER, across, "relative error of hidden states", log=True)


def layer_number(name: str) -> int:
    """The place of a layer's name on the axis."""
    return 0 if name == "embedding" else int(name.rpartition(".")[2]) + 1


def accuracy(report: Report, command: str | None) -> Figure | None:
    """How many drawn pictures a classifier recognises as the class that was asked for."""
    found = [(engine.name, engine.class_accuracy) for engine in report.engines if engine.class_accuracy]
    if not found:
        return None
    first = found[0][1]
    shares = [("reference", first.reference_accuracy, first.reference_accuracy_ci95)]
    shares += [(name, each.accuracy, each.accuracy_ci95) for name, each in found]
    shares.append(("real pictures", first.classifier_accuracy, first.classifier_accuracy_ci95))
    rows = [Bar(name, 0.0, value, interval, f"{100 * value:.1f} %") for name, value, interval in shares]
    title = "Class accuracy"
    cells = [(name, f"{100 * v:.1f}", f"{100 * low:.1f} to {100 * high:.1f}") for name, v, (low, high) in shares]
    drops = "; ".join(f"{name} {signed_percent(each.drop, each.drop_ci95)} points" for name, each in found)
    return figure(
        bars(rows, title, "recognised as the class asked for, %", unit=100),
        f"A classifier's verdict on {first.pictures} drawn pictures of each, and on held-out ones; the thin lines are "
        f"95 % intervals. Drop against the reference on paired pictures: {drops}.",
        table(("pictures of", "recognised %", "95 % interval"), cells, caption=title),
        command,
    )


def ratio(value: float, interval: tuple[float, float] | None) -> str:
    """A speedup with its interval."""
    return f"{value:.2f}x" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def first_engine(report: Report) -> EngineMeasurement | None:
    """The engine that commands are about, where there are several."""
    built = [engine for engine in report.engines if not engine.built]
    return next(iter(built or report.engines), None)

"""The sections of a report's page: each is a function of what is shown, and None where it has nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from compress.measure import EngineMeasurement
from compress.measure.pictures.images import Sheet
from compress.measure.speed.timing import changed
from compress.report import Report
from compress.report.data.outcomes import Outcome
from compress.report.page import again as commands
from compress.report.page.figures import (
    accuracy,
    again,
    by_layer,
    drift_waterfall,
    first_engine,
    models,
    pareto,
    positions,
    speed_waterfall,
)
from compress.report.page.markup import Markup, element, table
from compress.report.page.pixels import sheet_uris
from compress.report.text.cells import HEADERS, flagged, overview, size, smallest_batch
from compress.report.text.cells import trust as lines_of_trust
from compress.report.text.markdown import DECODER_HEADERS, decoder_rows, speed_table
from compress.report.text.numbers import blocks, numbers
from compress.report.text.seen import tables
from export.runtime.counted import counted


@dataclass(frozen=True)
class Shown:
    """A report, the folder that it lies in, and what earlier runs into that folder came to."""

    report: Report
    folder: Path
    earlier: tuple[Outcome, ...] = ()

    def command(self, kind: Callable[[Report, EngineMeasurement, Path], str]) -> str | None:
        """A command about the first engine that was built."""
        engine = first_engine(self.report)
        return kind(self.report, engine, self.folder) if engine else None


def summary(shown: Shown) -> Markup | None:
    """What each engine came to, in four numbers."""
    tiles = []
    for engine in shown.report.engines:
        found = []
        if (row := smallest_batch(engine)) and row.speedup_vs_reference and row.speedup_vs_reference_ci95:
            low, high = row.speedup_vs_reference_ci95
            value = f"{row.speedup_vs_reference:.2f}x" if changed((low, high)) else "no change"
            found.append((f"Speed, batch {row.batch}", value, f"95 %: {low:.2f} to {high:.2f}"))
        found.append(("Size", size(engine.size_bytes), share(engine)))
        if drift := engine.fidelity:
            low, high = (100 * end for end in drift.nll_drift_ci95)
            found.append(("NLL drift", f"{100 * drift.nll_drift:+.2f} %", f"95 %: {low:+.2f} to {high:+.2f}"))
            low, high = drift.kl_ci95
            found.append(("KL, nats per token", f"{drift.kl:.3g}", f"95 %: {low:.3g} to {high:.3g}"))
        if right := engine.class_accuracy:
            said = f"reference {100 * right.reference_accuracy:.1f} %"
            found.append(("Class accuracy", f"{100 * right.accuracy:.1f} %", said))
        boxes = [
            element("div", element("dt", name), element("dd", value, element("small", note)))
            for name, value, note in found
        ]
        tiles.append(element("h3", f"Engine {engine.name}" + (f", {engine.built}" if engine.built else "")))
        tiles.append(element("dl", *boxes, class_="tiles"))
    return element("div", *tiles) if tiles else None


def share(engine: EngineMeasurement) -> str:
    """A size against the reference's."""
    return "" if engine.size_share is None else f"{100 * engine.size_share:.0f} % of the reference"


def trust(shown: Shown) -> Markup | None:
    """Whether the measurements are evidence, and how much of the drift is noise."""
    said = lines_of_trust(shown.report)
    return element("ul", *(element("li", line) for line in said)) if said else None


def steps(shown: Shown) -> Markup:
    """The table that the console shows, and what must be known of each model."""
    notes = [element("li", line) for line in flagged(shown.report)]
    return element(
        "div",
        table(
            HEADERS,
            overview(shown.report),
            caption="Every step, against the reference",
            words=("step", "flags"),
            fits=True,
        ),
        element("ul", *notes) if notes else None,
        element(
            "p",
            "NLL drift has its 95 % interval over pictures. ms/token is one step of the whole smallest batch. Speedups "
            "are medians of paired ratios; where the 95 % interval holds 1, there was no measurable change, or, where "
            "it is wider than 10 %, it was too noisy to tell.",
            class_="note",
        ),
    )


def passes(shown: Shown) -> Markup | None:
    """What each pass won and lost."""
    made = commands.run(shown.report)
    return side_by_side(speed_waterfall(shown.report, made), drift_waterfall(shown.report, made))


def trade(shown: Shown) -> Markup | None:
    """Drift against latency."""
    return pareto(shown.report, shown.earlier, commands.run(shown.report))


def places(shown: Shown) -> Markup | None:
    """Where the drift is."""
    return side_by_side(
        positions(shown.report, shown.command(commands.drift)), by_layer(shown.report, shown.command(commands.layers))
    )


def pictures(shown: Shown) -> Markup | None:
    """What users see: the same classes and seeds by both."""
    return side_by_side(*(part for sheet in shown.report.sheets for part in slider(shown, sheet)))


def slider(shown: Shown, sheet: Sheet) -> list[Markup]:
    """The reference's pictures over the engine's with a slider between them, and their difference."""
    uris = sheet_uris(shown.folder / sheet.reference, shown.folder / sheet.drawn)
    if uris is None:
        return []
    theirs, own, apart = uris
    engine = next((each.folder for each in shown.report.engines if each.name == sheet.engine), "")
    rows = [sheet.labels[start : start + sheet.columns] for start in range(0, len(sheet.labels), sheet.columns)]
    classes = "; ".join(" ".join(map(str, row)) for row in rows)
    of = f"of the classes {classes} (row by row), " if rows else ""
    said = f"{counted(sheet.pictures, 'picture')} {of}drawn with seed {sheet.seed}"
    name = f"at-{sheet.engine}"
    stack = element(
        "div",
        element("img", src=own, alt=f"By the engine {sheet.engine}: {said}"),
        element("img", src=theirs, alt=f"By the reference: {said}", class_="over"),
        element("div", class_="edge"),
        class_="stack",
    )
    control = element(
        "label", "reference", element("input", type="range", min="0", max="100", value="50", id=name,
                                      aria_label="How much of the reference's pictures covers those of the engine"),
        sheet.engine, for_=name,
    )  # fmt: skip
    drawn = commands.pictures(str(shown.folder / engine), sheet, shown.folder)
    return [
        element(
            "figure",
            element("h3", f"Reference (left) and {sheet.engine} (right)"),
            stack,
            control,
            element("figcaption", f"{said[0].upper()}{said[1:]}. The same noise: they differ from the first token on "
                                  "that falls the other way."),
            again(drawn),
            class_="slider",
        ),
        element(
            "figure",
            element("h3", "Difference"),
            element("img", src=apart, alt=f"Difference of reference and {sheet.engine}; white where they are equal"),
            element("figcaption", "Absolute difference of the two; white where they are equal."),
            class_="difference",
        ),
    ]  # fmt: skip


def quality(shown: Shown) -> Markup | None:
    """What a classifier recognises."""
    return side_by_side(accuracy(shown.report, commands.run(shown.report)))


def seen(shown: Shown) -> Markup | None:
    """What a user of the engines gets: the sampling distribution, pairs of pictures, sets of pictures."""
    made = [
        table(each.headers, rows, caption=f"{each.title}. {each.caption}", words=("model",))
        for each in tables()
        if (rows := each.rows(shown.report))
    ]
    return element("div", *made) if made else None


def decoders(shown: Shown) -> Markup | None:
    """The image decoders, where one is not the reference's."""
    rows = decoder_rows(shown.report)
    return table(DECODER_HEADERS, rows, caption="Against the reference's decoder on the same tokens") if rows else None


def speeds(shown: Shown) -> Markup | None:
    """Every row of speed."""
    headers, rows = speed_table(shown.report)
    if not rows:
        return None
    caption = "Whole pictures, interleaved in one process; medians with exact 95 % intervals"
    return element(
        "div",
        table(headers, rows, caption=caption, words=("step", "runtime")),
        again(shown.command(commands.speed)),
    )


def everything(shown: Shown) -> Markup:
    """Every number of every model with its meaning, folded away."""
    parts = []
    for model in models(shown.report):
        tables = [
            table(
                ("number", "value", "95 % interval", "meaning"),
                list(numbers(found)),
                caption=f"{model.name}: {name}",
                words=("meaning",),
            )
            for name, found in blocks(model)
        ]
        if tables:
            parts.append(element("details", element("summary", model.name), *tables))
    return element("div", *parts)


def provenance(shown: Shown) -> Markup:
    """What made the engines, and the hashes that prove them."""
    files = [
        (f"{engine.folder}/{name}", hashed) for engine in shown.report.engines for name, hashed in engine.sha256.items()
    ]
    artifacts = [(model.name, model.artifact) for model in models(shown.report) if model.artifact]
    seed = shown.report.recipe.get("seed", 0)
    return element(
        "div",
        element("p", f"Seed {seed} of calibration, training, resampling and pictures."),
        hashes("Files of the engines, SHA-256", "file", files),
        hashes("Artifacts in the store, by the hash of everything that made them", "step", artifacts),
        again(commands.run(shown.report)),
    )


def hashes(caption: str, what: str, rows: list[tuple[str, str]]) -> Markup | None:
    """Names and hashes, in a type whose letters are told apart."""
    cells = [(name, element("code", hashed)) for name, hashed in rows]
    return table((what, "SHA-256"), cells, caption=caption, words=("SHA-256",)) if rows else None


def machine(shown: Shown) -> Markup:
    """Where it was measured."""
    found = shown.report.environment
    rows = [
        ("processor", f"{found.cpu}, {counted(found.cores, 'core')}"),
        ("vector instructions", ", ".join(found.flags) or "none known"),
        ("memory", f"{found.memory_mib} MiB"),
        ("system", found.os),
        ("Python", found.python),
        *found.libraries.items(),
    ]
    return table(("what", "value"), rows, caption="Machine and libraries that the times hold for", words=("value",))


def recipe(shown: Shown) -> Markup:
    """The recipe, defaults filled in."""
    return element("pre", yaml.safe_dump(shown.report.recipe, sort_keys=False).rstrip(), tabindex="0",
                   aria_label="The recipe as YAML", role="region")  # fmt: skip


def side_by_side(*parts: Markup | None) -> Markup | None:
    """Figures beside each other where the page is wide enough."""
    found = [part for part in parts if part]
    return element("div", *found, class_="pair") if found else None


# In the order of the page: the fragment that links to it, its heading, and what it holds.
SECTIONS: tuple[tuple[str, str, Callable[[Shown], Markup | None]], ...] = (
    ("engines", "Summary", summary),
    ("trust", "Confidence", trust),
    ("steps", "Steps", steps),
    ("passes", "What each pass won and lost", passes),
    ("trade", "Drift against latency", trade),
    ("places", "Where the drift is", places),
    ("pictures", "Pictures", pictures),
    ("accuracy", "Class accuracy", quality),
    ("seen", "What is drawn", seen),
    ("decoder", "Image decoder", decoders),
    ("speed", "Speed", speeds),
    ("numbers", "Every number", everything),
    ("provenance", "Hashes and seeds", provenance),
    ("machine", "Measured on", machine),
    ("recipe", "Recipe", recipe),
)

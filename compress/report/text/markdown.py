"""A report as a Markdown page: verdict first, then what was won and lost, then where it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import yaml

from compress.measure.speed.timing import changed, words
from compress.report import Report
from compress.report.text.cells import ABSENT, HEADERS, flagged, overview, signed_percent, size, trust
from compress.report.text.seen import Table, tables
from compress.report.text.table import headline
from export.runtime.counted import counted

TIMES = ("ms", "95 %", "p95", "first tokens", "all tokens", "ms/token", "images/s", "J/picture")
DECODER_HEADERS = ("step", "PSNR dB", "worst", "SSIM", "ms/picture", "vs reference", "size")
SPEED_HEADERS = ("step", "runtime", "batch", *TIMES, "vs previous", "vs reference", "vs eager", "peak MiB")


def markdown(report: Report) -> str:
    """The page, ending in a newline."""
    sections = [
        [f"# {headline(report).capitalize()}"],
        [f"- {breach.text}" for breach in report.verdict.breaches],
        ["## Steps", "", *grid(HEADERS, overview(report))],
        [
            "NLL drift is against the reference, with its 95 % interval over pictures. ms/token is one step of the "
            "whole smallest batch. Speedups are medians of paired ratios; where the 95 % interval holds 1, there was "
            "no measurable change, or, where it is wider than 10 %, it was too noisy to tell."
        ],
        titled("## Confidence", [f"- {line}" for line in trust(report)]),
        titled("## Flags", [f"- {line}" for line in flagged(report)]),
        titled("## Speed", speed(report)),
        *(titled(f"## {each.title}", seen(each, report)) for each in tables()),
        titled("## Image decoder", decoders(report)),
        titled("## Class accuracy", accuracy(report)),
        titled("## Engines", engines(report)),
        titled("## Pictures", [f"![{what}]({file})" for what, file in report.pictures.items()]),
        ["## Measured on", "", *machine(report)],
        ["## Recipe", "", "```yaml", yaml.safe_dump(report.recipe, sort_keys=False).rstrip(), "```"],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def titled(title: str, lines: list[str]) -> list[str]:
    """A section, or nothing where it would be empty."""
    return [title, "", *lines] if lines else []


def seen(each: Table, report: Report) -> list[str]:
    """A table of what users see, with its caption."""
    rows = each.rows(report)
    return [f"{each.caption}.", "", *grid(each.headers, rows)] if rows else []


def speed(report: Report) -> list[str]:
    """Every row of speed."""
    headers, rows = speed_table(report)
    return grid(headers, rows) if rows else []


def speed_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of speed, without columns that nothing was measured for."""
    rows = [
        (
            model.name,
            row.runtime,
            str(row.batch),
            f"{row.median_ms:.2f}",
            f"{row.ci95[0]:.2f} to {row.ci95[1]:.2f}",
            *(figure(value) for value in (row.p95_ms, row.first_tokens_ms, row.last_tokens_ms)),
            f"{row.ms_per_token:.3f}",
            f"{row.images_per_second:.1f}",
            figure(row.joules_per_picture),
            speedup(row.speedup_vs_previous, row.speedup_vs_previous_ci95),
            speedup(row.speedup_vs_reference, row.speedup_vs_reference_ci95),
            speedup(row.speedup_vs_baseline, row.speedup_vs_baseline_ci95),
            ABSENT if row.peak_mib is None else f"{row.peak_mib:.0f}",
        )
        for model in (report.reference, *report.steps, *report.engines)
        for row in model.speed
    ]
    held = [place for place in range(len(SPEED_HEADERS)) if any(row[place] != ABSENT for row in rows)]
    return [SPEED_HEADERS[place] for place in held], [[row[place] for place in held] for row in rows]


def speedup(value: float | None, ci95: tuple[float, float] | None) -> str:
    """A speedup with its interval."""
    if value is None or ci95 is None:
        return ABSENT
    interval = f"{value:.2f}x ({ci95[0]:.2f} to {ci95[1]:.2f})"
    return interval if changed(ci95) else f"{interval}, {words(value, ci95)}"


def accuracy(report: Report) -> list[str]:
    """A line for each model whose drawn pictures were classified."""
    return [
        f"- {model.name}: {100 * found.accuracy:.1f} % of {counted(found.pictures, 'picture')} are recognised "
        "as the class "
        f"asked for (95 % interval {100 * found.accuracy_ci95[0]:.1f} to {100 * found.accuracy_ci95[1]:.1f}), the "
        f"reference's {100 * found.reference_accuracy:.1f} %; drop {signed_percent(found.drop, found.drop_ci95)} "
        f"points. The classifier itself is right on {100 * found.classifier_accuracy:.1f} % of held-out pictures."
        for model in (*report.steps, *report.engines)
        if (found := model.class_accuracy) is not None
    ]


def decoders(report: Report) -> list[str]:
    """The table of the image decoders, where one of them is not the reference's."""
    if not (rows := decoder_rows(report)):
        return []
    pictures = next(model.decoding.pictures for model in (*report.steps, *report.engines) if model.decoding)
    return [
        *grid(DECODER_HEADERS, rows),
        "",
        f"Against the reference's decoder on the tokens of {pictures} held-out pictures, before rounding to 256 "
        "levels; a picture is decoded alone.",
    ]


def decoder_rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each image decoder, where one of them is not the reference's."""
    found = [(model.name, model.decoding) for model in (*report.steps, *report.engines) if model.decoding is not None]
    if all(decoding.equal for _, decoding in found):
        return []
    other = next(decoding for _, decoding in found if not decoding.equal)
    time, bytes_of = figure(other.reference_ms_per_picture), size(other.reference_size_bytes)
    rows: list[tuple[str, ...]] = [("reference", ABSENT, ABSENT, ABSENT, time, ABSENT, bytes_of)]
    for name, decoding in found:
        cells = ("equal", ABSENT, "equal", ABSENT, ABSENT)
        if not decoding.equal:
            cells = (
                f"{decoding.psnr:.2f} ({decoding.psnr_ci95[0]:.2f} to {decoding.psnr_ci95[1]:.2f})",
                f"{decoding.psnr_worst:.2f}",
                f"{decoding.ssim:.4f} ({decoding.ssim_ci95[0]:.4f} to {decoding.ssim_ci95[1]:.4f})",
                figure(decoding.ms_per_picture),
                speedup(decoding.speedup, decoding.speedup_ci95),
            )
        rows.append((name, *cells, size(decoding.size_bytes)))
    return rows


def figure(value: float | None) -> str:
    """A time or an energy."""
    return ABSENT if value is None else f"{value:.2f}"


def engines(report: Report) -> list[str]:
    """Where each engine lies."""
    return [
        f"- {engine.name} (target {engine.target}): `{engine.folder}`" + (f", {engine.built}" if engine.built else "")
        for engine in report.engines
    ]


def machine(report: Report) -> list[str]:
    """The environment, one line a fact."""
    found = report.environment
    return [
        f"- {found.cpu}, {counted(found.cores, 'core')} ({', '.join(found.flags) or 'no known vector instructions'}), "
        f"{found.memory_mib} MiB",
        f"- {found.os}, Python {found.python}",
        f"- {', '.join(f'{name} {version}' for name, version in found.libraries.items())}",
    ]


def grid(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]

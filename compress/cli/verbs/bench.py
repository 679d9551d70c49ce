"""The command `bench`: engines timed side by side."""

from __future__ import annotations

import click

from compress.cli import completing
from compress.cli.group import device_options, example, json_option, threads_option, whole_numbers
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_rows
from compress.core.settings import MOST_REPEATS
from export.runtime.counted import counted


@click.command()
@saying_options
@example("compress bench runs/quickstart/engines/cpu digits --batch 1,8")
@click.argument("engines", nargs=-1, required=True, shell_complete=completing.models)
@click.option("--batch", default="1,8", show_default=True, help="Pictures drawn at once, separated by commas.")
@click.option(
    "--repeats",
    type=click.IntRange(6, MOST_REPEATS),
    default=20,
    show_default=True,
    help="Interleaved rounds; up to three times as many where it is too noisy to tell.",
)
@threads_option
@device_options
@json_option
def bench(
    engines: tuple[str, ...], batch: str, repeats: int, threads: int, device: str | None,
    provider_options: tuple[str, ...], require_plan: bool, as_json: bool,
) -> None:  # fmt: skip
    """Time engines (or checkpoints, in PyTorch) interleaved in one process; the first is the reference."""
    from compress.recipe.early import check_model

    batches = whole_numbers(batch, "--batch", "1,8", low=1)
    for name in engines:
        check_model(name, f"{name}.checkpoint")
    from compress import api
    from compress.models.candidate import on_device

    opened = on_device(engines, threads, device, provider_options, require_plan=require_plan, engines_only=True)
    rows = api.bench(opened, batch=batches, repeats=repeats, threads=threads)
    if as_json:
        print_json(rows)
        return
    from compress.measure.speed.timing import words
    from compress.report.text.markdown import figure as said

    energy = ["J/picture"] if any(row.speed.joules_per_picture for row in rows) else []
    print_rows(
        f"{counted(threads, 'thread')}, at least {repeats} interleaved rounds; the first engine is the reference",
        ["engine", "runtime", "batch", "ms", "p95", "first", "noise", "ms/token", "images/s", *energy, "speedup"],
        [
            [row.engine, one.runtime, str(one.batch), f"{one.median_ms:.1f}", f"{one.p95_ms or 0:.1f}",
             said(one.first_tokens_ms), f"{one.noise or 0:.1%}", f"{one.ms_per_token:.3f}",
             f"{one.images_per_second:.2f}", *(said(one.joules_per_picture) for _ in energy),
             words(one.speedup_vs_reference, one.speedup_vs_reference_ci95)]
            for row in rows
            for one in [row.speed]
        ],
        least=("noise", "first", "p95", "J/picture", "runtime", "ms/token", "images/s"),
    )  # fmt: skip

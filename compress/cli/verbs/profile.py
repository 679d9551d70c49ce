"""The command `profile`: where an engine's time goes."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, json_option, threads_option
from compress.cli.paths import UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_rows
from export.runtime.counted import counted


@click.command()
@saying_options
@example("compress profile runs/quickstart/engines/cpu --batch 4")
@click.argument("engine", type=UserPath())
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Pictures drawn at once.")
@threads_option
@json_option
def profile(engine: Path, batch: int, threads: int, as_json: bool) -> None:
    """Show where an engine's time goes, by kind of layer, beside what this machine could do at most."""
    from compress.core.settings import InputError
    from compress.recipe.early import check_engine

    check_engine(engine)
    from compress.measure.speed.profile import profile as measured
    from compress.models.candidate import open_engine
    from export.runtime import roofline
    from export.runtime.throughput import check_batch

    opened = open_engine(engine, threads)
    try:
        check_batch(opened.shape, opened.sampler, opened.cache_bytes, batch)
    except ValueError as error:
        raise InputError(f"--{error}") from error
    limits = roofline.measure(threads)
    rows = measured(opened, batch, limits)
    if as_json:
        print_json({"roofline": limits, "rows": rows})
        return
    print_rows(
        f"{counted(threads, 'thread')}; this machine reads {limits.read_gb_per_s:.1f} GB/s and computes "
        f"{limits.fp32_gflops:.0f} GFLOP/s in fp32, {limits.int8_gflops:.0f} Gop/s in int8",
        ["kind", "calls", "ms", "ms per token", "share", "KB per token", "of the limit"],
        [
            [row.kind, str(row.calls), f"{row.milliseconds:.2f}", f"{row.ms_per_token:.4f}", f"{row.share:.1%}",
             f"{row.bytes_per_token / 1e3:.1f}" if row.bytes_per_token else "–",
             "–" if row.roofline_share is None else f"{row.roofline_share:.0%}"]
            for row in rows
        ],
        least=("KB per token", "calls", "ms per token", "of the limit"),
    )  # fmt: skip

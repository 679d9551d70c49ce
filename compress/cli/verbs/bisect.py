"""The command `bisect`: where two models part."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli import completing
from compress.cli.group import device_options, example, json_option, leave, threads_option
from compress.cli.paths import OutputFile
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_line, print_rows


@click.command()
@saying_options
@example("compress bisect digits runs/quickstart/engines/cpu --pictures 8")
@click.argument("reference", shell_complete=completing.models)
@click.argument("candidate", shell_complete=completing.models)
@click.option(
    "--tokens", "source", default="digits", show_default=True, help="'digits', a TokenSet (.npz), or 'drawn'."
)
@click.option(
    "--pictures",
    type=click.IntRange(2),
    default=8,
    show_default=True,
    help="Pictures that both read, of each class in turn.",
)
@click.option("--plot", type=OutputFile(), help="Write the error of each layer as a plot (.svg).")
@threads_option
@device_options
@json_option
def bisect(
    reference: str, candidate: str, source: str, pictures: int, plot: Path | None, threads: int,
    device: str | None, provider_options: tuple[str, ...], require_plan: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the first place whose output departs from the reference's, and inside a layer the first operator.

    Each of the two is a shipped model, a checkpoint or an engine folder. A quantized engine is best compared with a
    sound engine of the same form. Exits with 1 if a place departs.
    """
    from compress.recipe.early import check_model, check_tokens

    for name in (reference, candidate):
        check_model(name, f"{name}.checkpoint")
    check_tokens(source, "--tokens", "drawn")
    from compress import api
    from compress.core.settings import InputError
    from compress.models.candidate import on_device

    if plot is not None and plot.suffix != ".svg":
        raise InputError(f"--plot: '{plot}' must end in .svg")
    theirs, own = on_device([reference, candidate], threads, device, provider_options, require_plan=require_plan)
    found = api.bisect(theirs, own, tokens=source, pictures=pictures, threads=threads)
    if plot is not None:
        from compress.report.page.figures import layer_lines
        from compress.report.page.html import picture

        plot.write_text(picture(layer_lines([(candidate, found.layers)])), encoding="utf-8")
    if as_json:
        print_json(found)
    else:
        print_rows(
            f"the stream behind each layer, {candidate} against {reference}",
            ["layer", "relative error", "SQNR dB", "cosine", ""],
            [
                [row.name, f"{row.relative_error:.3g}", f"{row.sqnr_db:.1f}", f"{row.cosine:.6f}",
                 "departs" if row.name == found.departs else ""]
                for row in found.layers
            ],
        )  # fmt: skip
        print_rows(
            "what else was looked at",
            ["place", "looked at", "error", ""],
            [
                [row.name, row.looked_at, f"{row.error:.3g}",
                 f"departs: {', '.join([row.departs, *row.others])}" if row.departs else ""]
                for row in found.places
            ],
        )  # fmt: skip
        if found.operators:
            print_rows(
                f"inside {found.departs}, in order of running",
                ["operator", "relative error", ""],
                [
                    [row.name, f"{row.relative_error:.3g}", "departs" if row.name == found.operator else ""]
                    for row in found.operators
                ],
            )
        print_line(f"departs in {found.departs}" + (f", first at {found.operator}" if found.operator else "")
                   if found.departs else "nothing departs")  # fmt: skip
        if found.note:
            print_line(f"note: {found.note}")
    leave(passed=not found.departs)

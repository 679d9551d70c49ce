"""The command `sensitivity`: what quantizing or pruning each layer alone costs and saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.group import example, instead_options, json_option, store_option
from compress.cli.paths import OutputFile, RecipeFile, Share
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json, print_rows
from export.runtime.counted import counted

if TYPE_CHECKING:
    from compress.report.data.sensitivity import Sensitivity


@click.command()
@saying_options
@example("compress sensitivity emoji-mixed --formats int8,int4-g128 -o layers.csv --page layers.html")
@click.argument("recipe", type=RecipeFile())
@click.option("--formats", metavar="NAMES", help="Number formats, such as int8,int4-g128; none: no quantizing.  "
                                                 "[default: int8-static,int8,int4-g128,int2-g64]")  # fmt: skip
@click.option("--prune", type=Share(0, 0.9), default=0.25, show_default=True,
              help="Share of heads and of units that a layer loses; 0: none.")  # fmt: skip
@click.option("--pictures", type=click.IntRange(2), help="Pictures to measure KL on.  [default: 4096 tokens of them]")
@click.option("-o", "--output", type=OutputFile(), help="Write every row as CSV.")
@click.option("--page", type=OutputFile(), help="Write plots and tables as a page (.html).")
@instead_options
@store_option
@json_option
def sensitivity(
    recipe: Path, formats: str | None, prune: float, pictures: int | None, output: Path | None, page: Path | None,
    model: str, tokens: str, store_path: Path | str, as_json: bool,
) -> None:  # fmt: skip
    """Measure what quantizing or pruning each layer alone adds to the KL, and the bytes and time it saves.

    On validation pictures, or training ones where there are none. What is measured is kept in the store: run again
    after an interruption, and it goes on.
    """
    from compress.core.strict_yaml import read_yaml
    from compress.recipe.early import check_formats, check_recipe

    asked = None if formats is None else [name for name in formats.split(",") if name not in ("", "none")]
    check_recipe(read_yaml(recipe), recipe, model, tokens)  # as in `run`
    check_formats(asked or (), "--formats")
    from compress import api
    from compress.core import durable
    from compress.report.data.sensitivity import as_csv

    found = api.sensitivity(
        recipe,
        formats=asked,
        prune=prune,
        pictures=pictures,
        model=model,
        tokens=tokens,
        store=store_path,
        listener=Terminal(),
    )
    if output is not None:
        durable.write_text(output, as_csv(found))
    if page is not None:
        from compress.report.page.sensitivity import html

        durable.write_text(page, html(found))
    if as_json:
        print_json(found)
    else:
        show(found)


def show(found: Sensitivity) -> None:
    """The tables: KL of each layer by change, and what each change of all layers saves."""
    from compress.report.data.sensitivity import by_change, by_layer
    from compress.report.text.cells import size

    for kind, title in (("quantize", "quantized alone"), ("prune", "pruned alone")):
        rows = [row for row in found.layers if row.kind == kind]
        if rows:
            changes = [*by_change(rows)]
            print_rows(
                f"{title}: KL x 1000, nats per token, on {counted(found.pictures, f'{found.part} picture')}",
                ["layer", *changes],
                [[layer, *(f"{1e3 * own[name].kl:.4f}" if name in own else "" for name in changes)]
                 for layer, own in by_layer(rows).items()],
            )  # fmt: skip
    print_rows(
        f"all layers, summed; a step of {counted(found.rows_at_a_step, 'row')} on {counted(found.threads, 'thread')}",
        ["change", "KL x 1000", "worst layer", "saved", "time saved, µs"],
        [
            [name, f"{1e3 * sum(row.kl for row in rows):.4f}", max(rows, key=lambda row: row.kl).layer,
             size(sum(row.saved_bytes for row in rows)), f"{1e3 * sum(row.saved_ms for row in rows):.1f}"]
            for name, rows in found.changes.items()
        ],
    )  # fmt: skip

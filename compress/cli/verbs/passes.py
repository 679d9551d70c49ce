"""The command `passes`: the passes and their settings."""

from __future__ import annotations

import click

from compress.cli import completing
from compress.cli.group import example, json_option
from compress.cli.terminal import print_json, print_rows


@click.command()
@example("compress passes prune-heads")
@click.argument("name", required=False, shell_complete=completing.passes)
@json_option
def passes(name: str | None, as_json: bool) -> None:
    """List the passes, or one pass's settings with defaults."""
    from compress.recipe.early import check_pass

    if name is not None:
        check_pass(name)
    from compress.cli import catalogue

    rows = catalogue.passes(name)
    if as_json:
        print_json(rows)
        return
    if name is None:
        listed = [
            [r["name"], f"{r['accepts']} -> {r['returns']}", "exact" if r["exact"] else "lossy", r["doc"]] for r in rows
        ]
        print_rows("passes", ["pass", "forms", "", "what it does"], listed, ("forms",))
        return
    settings = [[s["name"], s["type"], s["default"], s["doc"]] for s in rows[0]["settings"]]
    print_rows(f"{name}: {rows[0]['doc']}", ["setting", "type", "default", "what it is"], settings, ("type",))

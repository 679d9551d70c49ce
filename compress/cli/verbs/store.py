"""The command `store`: see and tidy the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from compress.cli.group import Group, example, json_option, store_option
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json, print_rows


@click.group(cls=Group)
def store() -> None:
    """See and tidy the store of artifacts."""


@store.command("list")
@example("compress store list")
@store_option
@json_option
def store_list(store_path: Path | str, as_json: bool) -> None:
    """What the store holds, and which recipes need it."""
    from compress.core.store import Store

    kept = Store(store_path).check()
    rows = kept.rows()
    for name in kept.damaged():
        click.echo(f"{store_path}/{name}: (damaged)", err=True)
    if as_json:
        print_json(rows)
        return
    print_store_rows(f"{store_path}: {counted(rows)}", rows)
    click.echo(f"{sum(row['size_bytes'] for row in rows) / 1e6:.1f} MB in all")


@store.command("gc")
@saying_options
@example("compress store gc --max-size 2GiB")
@click.option("--max-size", required=True, help="What may stay: bytes, or with MB, GB, MiB, GiB.")
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@store_option
@json_option
def store_gc(max_size: str, dry_run: bool, store_path: Path | str, as_json: bool) -> None:
    """Delete artifacts until the store is small enough.

    Those that no recipe needs go first, then those of finished recipes, then those of interrupted runs; among equals
    the least recently used. What a running process needs is left.
    """
    from compress.core.sizes import parse_size
    from compress.core.store import Store

    limit, kept = parse_size(max_size, "--max-size"), Store(store_path)
    kept = kept.check() if dry_run else kept.prepare()
    rows = kept.collect(limit, Terminal().say, dry_run=dry_run)
    if as_json:
        print_json(rows)
        return
    print_store_rows(f"{store_path}: {'would delete' if dry_run else 'deleted'} {counted(rows)}", rows)


def counted(rows: list[dict[str, Any]]) -> str:
    """How many artifacts there are."""
    return f"{len(rows)} artifact{'s' if len(rows) != 1 else ''}"


def print_store_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Artifacts of the store as a table."""
    print_rows(title, ["key", "pass", "size", "unused", "needed by"], [
        [row["key"][:12], row["pass"], f"{row['size_bytes'] / 1e6:.2f} MB", f"{row['unused_seconds'] / 3600:.1f} h",
         ", ".join(whose(row)) or "-"]
        for row in rows
    ])  # fmt: skip


def whose(row: dict[str, Any]) -> Iterator[str]:
    """The recipes that need an artifact; of a run that has not finished also its state, host, process and beginning."""
    unfinished = {each["recipe"] for each in row["work"]}
    yield from (Path(recipe).name for recipe in dict.fromkeys(row["needed_by"]) if recipe not in unfinished)
    for each in row["work"]:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(each["since"]))
        yield f"{Path(each['recipe']).name} ({each['state']}: {each['host']}, process {each['pid']}, since {since})"

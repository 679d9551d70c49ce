"""The command `store`: see and tidy the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compress.cli.group import (
    Group,
    example,
    json_option,
    store_option,
)
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json, print_rows


@click.group(cls=Group)
def store() -> None:
    """See and tidy the store of artifacts."""


@store.command("list")
@example("compress store list")
@store_option
@json_option
def store_list(store_path: Path, as_json: bool) -> None:
    """What the store holds, and which recipes need it."""
    from compress.core.store import Store

    kept = Store(store_path).check()
    rows = kept.rows()
    for name in kept.damaged():
        click.echo(f"{store_path}/{name}: (damaged)", err=True)
    if as_json:
        print_json(rows)
        return
    print_store_rows(f"{store_path}: {len(rows)} artifacts", rows)
    click.echo(f"{sum(row['size_bytes'] for row in rows) / 1e6:.1f} MB in all")


@store.command("gc")
@saying_options
@example("compress store gc --max-size 2GiB")
@click.option("--max-size", required=True, help="What may stay: bytes, or with MB, GB, MiB, GiB.")
@store_option
@json_option
def store_gc(max_size: str, store_path: Path, as_json: bool) -> None:
    """Delete artifacts until the store is small enough: those no recipe needs first, then least recently used."""
    from compress.core.sizes import parse_size
    from compress.core.store import Store

    rows = Store(store_path).prepare().collect(parse_size(max_size, "--max-size"), Terminal().say)
    if as_json:
        print_json(rows)
        return
    print_store_rows(f"{store_path}: deleted {len(rows)} artifacts", rows)


def print_store_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Artifacts of the store as a table."""
    print_rows(title, ["key", "pass", "size", "unused", "needed by"], [
        [row["key"][:12], row["pass"], f"{row['size_bytes'] / 1e6:.2f} MB", f"{row['unused_seconds'] / 3600:.1f} h",
         ", ".join(Path(user).name for user in row["needed_by"]) or "-"]
        for row in rows
    ])  # fmt: skip

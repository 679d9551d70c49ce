"""The command `search`: the best recipe of a space under a budget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.group import example, json_option, leave, store_option
from compress.cli.paths import SpaceFile, UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json, print_line, print_rows
from export.runtime.counted import counted

if TYPE_CHECKING:
    from compress.searching.found import Found
    from compress.searching.goal import Goal

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd])+")


class Duration(click.ParamType[float]):
    """A time such as 90s, 30m or 1h30m, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        parts = re.findall(r"([0-9.]+)([smhd])", value) if DURATION.fullmatch(value) else []
        seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
        if not seconds:
            self.fail(f"'{value}' is no time above 0; write it as 90s, 30m or 1h30m.", param, ctx)
        return float(seconds)


@click.command()
@saying_options
@example("compress search digits --budget nll_drift=1% --budget size=8MB --minimize latency --time 30m")
@click.argument("space", type=SpaceFile())
@click.option(
    "--budget", "budgets", multiple=True, metavar="QUANTITY=LIMIT",
    help="A limit that trials must keep, of any quantity of a gate; may be given several times.",
)  # fmt: skip
@click.option(
    "--minimize", "minimise", multiple=True, metavar="QUANTITY", default=("latency",), show_default=True,
    help="What is made small; given several times, the first decides what is best.",
)  # fmt: skip
@click.option(
    "--time", "seconds", type=Duration(), default="30m", show_default=True, metavar="TIME",
    help="Time in which trials work, those of earlier calls too; what began is finished.",
)  # fmt: skip
@click.option("--trials", type=click.IntRange(1), help="Most trials, those of earlier calls too.")
@click.option("-o", "--output", type=UserPath(), help="The search's folder.  [default: searches/<space>]")
@store_option
@click.option(
    "--on",
    metavar="PLACE",
    default="",
    help="Who tries, side by side: local:N (N processes), ray, or ray://HOST:PORT.  [default: this process]",
)
@json_option
def search(
    space: Path,
    budgets: tuple[str, ...],
    minimise: tuple[str, ...],
    seconds: float,
    trials: int | None,
    output: Path | None,
    store_path: Path | str,
    on: str,
    as_json: bool,
) -> None:
    """Search a space of recipes for the best one under a budget.

    A space is a recipe in which settings are {choose: [...]} or {between: [low, high], step: s}, and steps may be
    optional: true. The best recipe so far is always best.yaml, with its engine beside it; search.html shows the
    trade-off. At the end the trials that could be best are timed beside each other. The same command goes on where it
    was. Exits with 1 if no trial keeps every budget.
    """
    from compress.searching.asked import asked
    from compress.searching.limits import pairs
    from compress.workers.place import place_of

    if on:
        place_of(on)
    wish = asked(space, pairs(budgets), minimise)  # all that can be said before anything heavy is imported
    from compress import api

    found = api.search(
        space, budgets=wish.budgets, minimize=minimise, seconds=seconds, trials=trials, output=output, store=store_path,
        listener=Terminal(), on=on,
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        show(found, wish.goal())
    leave(passed=found.best is not None)


def show(found: Found, goal: Goal) -> None:
    """The front, the best or the nearest trial, and where everything lies."""
    from compress.searching.page import columns, headline, measured, title
    from compress.searching.search import words

    names = columns(goal)
    rows = [[str(each.number), *(measured(each, name, goal) for name in names), words(each.picked)]
            for each in found.front]  # fmt: skip
    if rows:
        print_rows("trials that no other one beats", ["trial", *(title(name, goal) for name in names), ""], rows)
    if found.compared is not None:
        for line in found.compared.lines():
            print_line(line)
    print_line(
        f"{headline(found, goal)} ({counted(len(found.trials), 'trial')}, {found.seconds:.0f} s; ended: {found.ended})"
    )
    if found.best is not None:
        print_line(f"recipe: {found.recipe}")
        print_line(f"engine: {found.engine}")
    elif found.nearest is not None:
        print_line(f"nearest: trial {found.nearest.number}: {words(found.nearest.picked)}")
        for text in found.nearest.lacks or (found.nearest.reason,):
            print_line(f"breach: {text}")
    print_line(f"page: {found.page}")

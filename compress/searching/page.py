"""search.html: what was found, the trade-off, what decides it, and every trial; of the pieces of a report's page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from compress.report.page.figures import figure
from compress.report.page.html import page
from compress.report.page.markup import Markup, element, table
from compress.report.page.plots import Bar, Bubble, bars, bubbles
from compress.report.text.cells import ABSENT, size
from compress.searching.comparison import Comparison
from compress.searching.found import Found
from compress.searching.goal import Goal, Objective
from compress.searching.outcome import Number, Outcome
from compress.searching.space import label
from export.runtime.counted import counted

MOVED = "settings that moved"


def html(found: Found, goal: Goal) -> str:
    """The whole page."""
    done = (
        f"{counted(len(found.trials), 'trial')} of {counted(found.combinations, 'combination')} in "
        f"{found.seconds:.0f} s"
    )
    state = "passed" if found.best else "failed"
    said = headline(found, goal)
    head = element(
        "header",
        element("p", f"compress search: {found.space}", class_="note"),
        element("h1", element("span", said, class_=state)),
        element("p", f"{done}. {'Ended: ' + found.ended if found.ended else 'It goes on'}.", class_="note"),
    )
    sections = [("found", "Summary", summary(found, goal))]
    if (plot := trade(found, goal)) is not None:
        sections.append(("trade", "Trade-off", plot))
    if found.compared is not None:
        sections.append(("compared", "The best beside each other", compared(found.compared)))
    sections.append(("importance", "What decides", importance(found, goal)))
    sections.append(("trials", "Trials", trials(found, goal)))
    return page(f"search of {found.space}: {said}", head, sections)


def headline(found: Found, goal: Goal) -> str:
    """What was found, in a sentence."""
    if found.best is not None:
        first = goal.objectives[0]
        return f"Trial {found.best.number}: {first.words(found.best.values[0])}"
    return "No trial keeps every budget" if found.trials else "No trial has ended yet"


def title(name: str, goal: Goal) -> str:
    """What a quantity is called."""
    return next((each.title for each in goal.objectives if each.name == name), name)


def words(name: str, value: float, goal: Goal) -> str:
    """A value of a quantity in its unit."""
    objective = next((each for each in goal.objectives if each.name == name), None)
    if objective is not None:
        return f"{value:.3f}" if objective.name == "latency" else objective.words(value)
    return next((key.quantity.words(value) for key, _ in goal.judged() if key.limit.key == name), f"{value:.3g}")


def measured(outcome: Outcome, name: str, goal: Goal) -> str:
    """A cell: a number with its interval."""
    number = outcome.found.get(name)
    if number is None:
        return ABSENT
    if number.ci95 is None:
        return words(name, number.value, goal)
    low, high = (words(name, each, goal) for each in number.ci95)
    return f"{words(name, number.value, goal)} ({low} to {high})"


def columns(goal: Goal) -> list[str]:
    """The quantities of tables: objectives, then budgets."""
    return list(dict.fromkeys([*(each.name for each in goal.objectives), *(key.limit.key for key, _ in goal.judged())]))


def summary(found: Found, goal: Goal) -> Markup:
    """The best trial, or the nearest one and what it lacks; objectives and budgets."""
    budgets = ", ".join(f"{key.limit.key} {key.quantity.words(limit)}" for key, limit in goal.judged()) or "none"
    lines = [
        element("li", f"Made small: {', '.join(each.title for each in goal.objectives)}; budgets: {budgets}."),
        element("li", "Study: ", element("code", found.study), " (Optuna, called search)"),
    ]
    if found.warm:
        lines.append(element("li", f"{found.warm[:1].upper()}{found.warm[1:]}."))
    shown, heading = found.best, "Best"
    if shown is None and found.nearest is not None:
        shown, heading = found.nearest, "Nearest"
        lines += [element("li", f"Trial {shown.number} lacks: {text}") for text in shown.lacks or (shown.reason,)]
    picked = None
    if shown is not None:
        rows = [(name, label(value)) for name, value in shown.picked.items()]
        picked = table(("setting", "value"), rows, caption=f"{heading}: trial {shown.number}", words=("value",))
    again = element("p", "Its recipe: ", element("code", "best.yaml"), class_="note") if found.best else None
    return element("div", element("ul", *lines), picked, again)


def trade(found: Found, goal: Goal) -> Markup | None:
    """The first two quantities of every measured trial."""
    if len(found.axes) < 2:
        return None
    across, up = found.axes[:2]
    shown = [each for each in found.trials if across in each.found and up in each.found]
    if not shown:
        return None
    unit = percent(up, goal)
    points = []
    for each in shown:
        x, y = each.found[across], each.found[up]
        kind = "engine" if each == found.best else "step" if each.kept else "earlier"
        places = ", ".join(f"{title(name, goal)} {measured(each, name, goal)}" for name in (across, up))
        said = f"trial {each.number}: {places}"
        interval = None if y.ci95 is None else (unit * y.ci95[0], unit * y.ci95[1])
        points.append(Bubble(x.value, unit * y.value, each.size_bytes or 1, str(each.number), said, interval, kind,
                             x_interval=x.ci95))  # fmt: skip
    name = f"{title(up, goal)} against {title(across, goal)} of every measured trial"
    rows = [
        (str(each.number), measured(each, across, goal), measured(each, up, goal), cell_of_size(each),
         "yes" if each in found.front else "")
        for each in shown
    ]  # fmt: skip
    return figure(
        bubbles(points, name, title(across, goal), title(up, goal) + (", %" if unit == 100 else "")),
        "Lower left is better; the area of a bubble is its engine's size on disk, thin lines are 95 % intervals. The "
        "full bubble is the best trial; broken ones do not keep every budget. The broken line joins what nothing else "
        "measurably beats; the table says which trials no other one beats by the estimates.",
        table(("trial", title(across, goal), title(up, goal), "size", "front"), rows, caption=name),
        None,
        alone=True,
    )


def compared(found: Comparison) -> Markup:
    """What could be the best, timed in the same rounds."""
    rows = [(str(each.trial), interval(each.beside), interval(each.alone), each.words()) for each in found.rows]
    said = (
        f"Timed interleaved in one process, {counted(found.rounds, 'round')} at batch {found.batch}, as trials may be "
        "timed hours apart: these times decide which is best, and stand in place of those of single trials."
    )
    heads = ("trial", "time / reference's", "in its trial", "speed")
    return element("div", element("p", said), table(heads, rows, caption="The fastest first", words=("speed",)))


def interval(number: Number) -> str:
    """A share of the reference's time, with its interval."""
    low, high = number.ci95 or (number.value, number.value)
    return f"{number.value:.3f} ({low:.3f} to {high:.3f})"


def percent(name: str, goal: Goal) -> float:
    """What an axis multiplies a quantity by: 100 for percent."""
    units = {key.limit.key: key.quantity.unit for key, _ in goal.judged()}
    units |= {each.name: each.key.quantity.unit for each in goal.objectives if each.name != "latency"}
    return 100.0 if units.get(name) in ("percent", "points") else 1.0


def importance(found: Found, goal: Goal) -> Markup:
    """Which choices decide each objective."""
    made = [one(each, found.importance.get(each.name, {})) for each in goal.objectives]
    return element("div", *made)


def one(objective: Objective, shares: dict[str, float]) -> Markup:
    """The choices of one objective."""
    if not shares:
        return element("p", f"{objective.title}: too few trials were measured to say which choices decide it.")
    name = f"Importance of each choice for {objective.title}"
    rows = [Bar(choice, 0.0, share, None, f"{100 * share:.0f} %") for choice, share in shares.items()]
    cells = [(choice, f"{100 * share:.1f}") for choice, share in shares.items()]
    return figure(
        bars(rows, name, "share, %", unit=100),
        "By Optuna's evaluator (PED-ANOVA) over the measured trials: how much a choice decides which of them are among "
        "the best. With few trials it is a hint at most.",
        table(("choice", "share, %"), cells, caption=name),
        None,
        alone=True,
    )


def trials(found: Found, goal: Goal) -> Markup:
    """Every trial, with the choices in which trials differ."""
    moved = moving(found.trials)
    names = columns(goal)
    rows = [
        (
            str(each.number),
            each.state
            + (" (best)" if each == found.best else "" if each.kept or each.state != "measured" else ", beyond"),
            *(measured(each, name, goal) for name in names),
            *(() if "size" in names else (cell_of_size(each),)),
            *(label(each.picked[name]) if name in each.picked else ABSENT for name in moved),
            f"{each.seconds:.0f}",
        )
        for each in found.trials
    ]
    headers = (
        "trial", "state", *(title(name, goal) for name in names), *(() if "size" in names else ("size",)), *moved,
        "seconds",
    )  # fmt: skip
    command = f"compress search {shlex.quote(found.space)}"
    reasons = [element("li", f"Trial {each.number}: {each.reason}") for each in found.trials if each.reason]
    return element(
        "div",
        table(headers, rows, caption="Every trial, with the choices in which they differ", words=("state",)),
        element("ul", *reasons) if reasons else None,
        element("p", f"The same {command} goes on where it was.", class_="note"),
    )


def moving(outcomes: Sequence[Outcome]) -> list[str]:
    """The choices that are not the same in all trials."""
    names = dict.fromkeys(name for each in outcomes for name in each.picked)
    return [name for name in names if len({label(each.picked.get(name)) for each in outcomes}) > 1]


def cell_of_size(outcome: Outcome) -> str:
    """The bytes of a trial's engine."""
    return ABSENT if outcome.size_bytes is None else size(outcome.size_bytes)

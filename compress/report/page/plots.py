"""Plots as inline SVG: bars from place to place, bubbles and lines, each with intervals; colours come from the page.

A plot is drawn for a width of 480 and scales with its column, so that its text stays legible on a telephone.
Every mark carries a title, which browsers show under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.report.page.axes import Axis, linear, logarithmic
from compress.report.page.markup import Markup, element, join

WIDTH = 480.0
ROW = 30.0  # height of a bar with the space around it
BAR = 16.0
LETTER = 8.2  # width of a letter of a name, about; on a telephone letters are larger
LONGEST = 18  # letters of a name that are shown
AXIS = 46.0  # room below for ticks and their title
LARGEST = 20.0  # radius of the largest bubble
SMALLEST = 4.0
NEAR = 13.0  # marks nearer than this share one label
HIGH = 14.0  # height of a label
SERIES = 6  # colours; the page has as many
Box = tuple[float, float, float, float]  # left, top, right, bottom
Circle = tuple[float, float, float]  # across, down, radius


@dataclass(frozen=True)
class Bar:
    """A bar from `start` to `end`, with the interval of its end; `kind` is its colour: better, worse, same, plain."""

    name: str
    start: float
    end: float
    interval: tuple[float, float] | None
    label: str
    kind: str = "plain"


@dataclass(frozen=True)
class Bubble:
    """A point with an area; `mark` is written beside it, `kind` is step, engine, reference or earlier."""

    x: float
    y: float
    area: float
    mark: str
    title: str
    y_interval: tuple[float, float] | None = None
    kind: str = "step"
    series: int = 0
    x_interval: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What is known of both: intervals, or the values where there are none."""
        return self.x_interval or (self.x, self.x), self.y_interval or (self.y, self.y)

    def beats(self, other: Bubble) -> bool:
        """Whether it is measurably lower in one and not measurably higher in the other."""
        own, theirs = self.ends, other.ends
        lower = [mine[1] < yours[0] for mine, yours in zip(own, theirs, strict=True)]
        higher = [mine[0] > yours[1] for mine, yours in zip(own, theirs, strict=True)]
        return any(lower) and not any(higher)


@dataclass(frozen=True)
class Line:
    """Values along an axis, with their intervals if they have some."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def bars(
    rows: Sequence[Bar], title: str, axis_title: str, *, log: bool = False, chained: bool = False, unit: float = 1.0
) -> Markup:
    """Horizontal bars, one below the other; `chained` ones are joined where one ends and the next begins (a waterfall).

    `unit` multiplies what ticks show, 100 for percent. On a logarithmic axis equal factors have equal lengths.
    """
    left = 12 + LETTER * min(LONGEST, max(len(row.name) for row in rows))
    right = WIDTH - 18 - LETTER * max(len(row.label) for row in rows)
    values = [value * unit for row in rows for value in (row.start, row.end, *(row.interval or ()))]
    axis = (logarithmic if log else linear)(values, left, right)
    bottom = 8 + ROW * len(rows)
    marks: list[Markup] = horizontal(axis, 8, bottom, axis_title)
    if axis.low < 0 < axis.high or log:
        origin = axis(1.0 if log else 0.0)
        marks.append(element("line", x1=origin, x2=origin, y1=8.0, y2=bottom, class_="origin"))
    for index, row in enumerate(rows):
        middle = 8 + ROW * (index + 0.5)
        begin, end = sorted((axis(row.start * unit), axis(row.end * unit)))
        said = element("title", f"{row.name}: {row.label}")
        marks.append(element("text", shortened(row.name), x=left - 8, y=middle + 4.5, class_="name", text_anchor="end"))
        marks.append(
            element("g", element("rect", x=begin, y=middle - BAR / 2, width=max(end - begin, 1.5), height=BAR), said,
                    class_=f"mark bar {row.kind}")
        )  # fmt: skip
        if row.interval:
            low, high = (axis(value * unit) for value in row.interval)
            marks.append(whisker(low, high, lambda at, middle=middle: (at, middle)))  # type: ignore[misc]
        if chained and index + 1 < len(rows):
            at = axis(row.end * unit)
            marks.append(element("line", x1=at, x2=at, y1=middle + BAR / 2, y2=middle + ROW - BAR / 2, class_="link"))
        marks.append(element("text", row.label, x=WIDTH - 4, y=middle + 4.5, class_="value", text_anchor="end"))
    return drawing(title, bottom + AXIS, marks)


def bubbles(points: Sequence[Bubble], title: str, x_title: str, y_title: str, *, front: bool = True) -> Markup:
    """Points with areas; lower left is better, and a broken line joins those that no other one beats."""
    x = linear([value for point in points for value in (point.x, *(point.x_interval or ()))], 62, WIDTH - 26)
    height = 300.0
    y = linear([value for point in points for value in (point.y, *(point.y_interval or ()))], height, 26)
    most = max(point.area for point in points) or 1.0
    marks = [*horizontal(x, 12, height, x_title), *vertical(y, 62, WIDTH - 14, y_title)]
    if front and len(best := pareto(points)) > 1:
        corners = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in best)
        marks.append(element("polyline", points=corners, class_="front"))
    for point in sorted(points, key=lambda point: -point.area):  # small ones stay visible
        across, up = x(point.x), y(point.y)
        radius = max(SMALLEST, LARGEST * math.sqrt(point.area / most))
        parts = [element("circle", cx=across, cy=up, r=radius), element("title", point.title)]
        marks.append(element("g", *parts, class_=f"mark bubble {point.kind} s{point.series % SERIES}"))
        if point.y_interval:
            low, high = (y(value) for value in point.y_interval)
            marks.append(whisker(low, high, lambda at, across=across: (across, at)))  # type: ignore[misc]
        if point.x_interval:
            low, high = (x(value) for value in point.x_interval)
            marks.append(whisker(low, high, lambda at, up=up: (at, up)))  # type: ignore[misc]
    circles = [(x(p.x), y(p.y), max(SMALLEST, LARGEST * math.sqrt(p.area / most))) for p in points]
    for text, left, middle in labelled(points, circles):
        marks.append(element("text", text, x=left, y=middle + 4.5, class_="tag"))
    return drawing(title, height + AXIS, marks)


def lines(series: Sequence[Line], title: str, x_title: str, y_title: str, *, log: bool = False) -> Markup:
    """Lines with bands for their intervals; colour and dashes tell them apart, as the page's legend does."""
    height = 250.0
    values = [value for line in series for value in (*line.y, *line.low, *line.high)]
    x = linear([value for line in series for value in line.x], 62, WIDTH - 14, zero=False).cut()
    y = logarithmic(values, height, 26) if log else linear(values, height, 26)
    marks = [*horizontal(x, 12, height, x_title), *vertical(y, 62, WIDTH - 14, y_title)]
    for index, line in enumerate(series):
        kind = f"s{index % SERIES}"
        if line.low:
            edge = [*zip(line.x, line.high, strict=True), *reversed([*zip(line.x, line.low, strict=True)])]
            marks.append(element("polygon", points=path(edge, x, y), class_=f"band {kind}"))
        said, points = element("title", line.name), [*zip(line.x, line.y, strict=True)]
        drawn = [element("polyline", points=path(points, x, y))]
        if len(points) <= 24:
            drawn += [element("circle", cx=x(a), cy=y(b), r=2.6) for a, b in points]
        marks.append(element("g", *drawn, said, class_=f"mark line {kind}"))
    return drawing(title, height + AXIS, marks)


def path(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)


def pareto(points: Sequence[Bubble]) -> list[Bubble]:
    """Those that no other point beats, from left to right; of points that cannot be told apart the leftmost."""
    best: list[Bubble] = []
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        if not any(other.beats(point) for other in points) and not any(alike(point, other) for other in best):
            best.append(point)
    return best


def alike(one: Bubble, other: Bubble) -> bool:
    """Whether neither is measurably lower in anything."""
    pairs = zip(one.ends, other.ends, strict=True)
    return all(mine[0] <= yours[1] and yours[0] <= mine[1] for mine, yours in pairs)


def labelled(points: Sequence[Bubble], circles: Sequence[Circle]) -> list[tuple[str, float, float]]:
    """Labels of points, each with its left end and its middle: beside, above or below, where most room is left.

    Points that are nearer to each other than a label is high share one.
    """
    groups: list[list[int]] = []
    for index, (across, up, _) in enumerate(circles):
        near = [group for group in groups if math.dist((across, up), circles[group[0]][:2]) < NEAR]
        if near:
            near[0].append(index)
        else:
            groups.append([index])
    placed: list[Box] = []
    labels = []
    for group in groups:
        if not (text := ", ".join(points[index].mark for index in group if points[index].mark)):
            continue
        across, up, _ = circles[group[0]]
        radius, wide = max(circles[index][2] for index in group) + 4, LETTER * len(text)
        spots = [
            (across + radius, up - 9), (across - radius - wide, up - 9), (across - wide / 2, up - radius - HIGH / 2),
            (across - wide / 2, up + radius + HIGH / 2), (across - wide / 2, up - radius - 1.5 * HIGH),
            (across - wide / 2, up + radius + 1.5 * HIGH),
        ]  # fmt: skip
        others = [(cx - r, cy - r, cx + r, cy + r) for index, (cx, cy, r) in enumerate(circles) if index not in group]
        boxes = [(left, middle - HIGH / 2, left + wide, middle + HIGH / 2) for left, middle in spots]
        costs = [
            sum(shared(box, other) for other in others) + 4 * sum(shared(box, other) for other in placed)
            + (WIDTH * HIGH if box[0] < 0 or box[2] > WIDTH else 0)
            for box in boxes
        ]  # fmt: skip
        best = costs.index(min(costs))
        placed.append(boxes[best])
        labels.append((text, *spots[best]))
    return labels


def shared(first: Box, second: Box) -> float:
    """The area that two boxes (left, top, right, bottom) have in common."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    return max(wide, 0.0) * max(high, 0.0)


def drawing(title: str, height: float, marks: Sequence[Markup]) -> Markup:
    """The whole picture; a reader that sees no pictures is told its title, and finds the numbers in the table below."""
    return element(
        "svg", *marks, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=title, class_="plot",
        preserveAspectRatio="xMidYMid meet",
    )  # fmt: skip


def horizontal(axis: Axis, top: float, bottom: float, title: str) -> list[Markup]:
    """Upright grid lines with ticks below them."""
    marks = []
    for tick in axis.ticks:
        at = axis(tick)
        marks.append(element("line", x1=at, x2=at, y1=float(top), y2=float(bottom), class_="grid"))
        marks.append(element("text", axis.text(tick), x=at, y=bottom + 17.0, class_="tick", text_anchor="middle"))
    middle = (axis.start + axis.end) / 2
    marks.append(element("text", title, x=middle, y=bottom + 37.0, class_="title", text_anchor="middle"))
    return marks


def vertical(axis: Axis, left: float, right: float, title: str) -> list[Markup]:
    """Level grid lines with ticks to their left; the title stands above, where it need not be turned."""
    marks = []
    for tick in axis.ticks:
        at = axis(tick)
        marks.append(element("line", x1=float(left), x2=float(right), y1=at, y2=at, class_="grid"))
        marks.append(element("text", axis.text(tick), x=left - 7.0, y=at + 4.5, class_="tick", text_anchor="end"))
    marks.append(element("text", title, x=4.0, y=14.0, class_="title"))
    return marks


def whisker(low: float, high: float, place: Callable[[float], tuple[float, float]]) -> Markup:
    """An interval as a line with an end at each side; `place` makes a point of a place on its axis."""
    (x1, y1), (x2, y2) = place(low), place(high)
    upright = x1 == x2
    ends = [
        element("line", x1=x - 4 * upright, x2=x + 4 * upright, y1=y - 4 * (not upright), y2=y + 4 * (not upright))
        for x, y in ((x1, y1), (x2, y2))
    ]
    return element("g", element("line", x1=x1, x2=x2, y1=y1, y2=y2), *ends, class_="whisker")


def swatch(series: int) -> Markup:
    """A piece of a line, for a legend."""
    drawn = element("line", x1=1.0, x2=27.0, y1=6.0, y2=6.0)
    inner = element("g", drawn, class_=f"line s{series % SERIES}")
    return element("svg", inner, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def legend(names: Sequence[str]) -> Markup | None:
    """Which line is which; one alone needs none."""
    items = [element("li", swatch(index), name) for index, name in enumerate(names)]
    return element("ul", join(items), class_="legend") if len(names) > 1 else None


def shortened(name: str) -> str:
    """A name that is not too long for its column."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"

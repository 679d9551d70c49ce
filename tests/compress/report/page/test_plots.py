"""Which points of a plot nothing else beats."""

from __future__ import annotations

from compress.report.page.plots import Bubble, labelled, pareto


def test_the_front_leaves_out_what_is_not_measurably_better() -> None:
    def bubble(mark: str, x: tuple[float, float], y: tuple[float, float]) -> Bubble:
        return Bubble(sum(x) / 2, sum(y) / 2, 1, mark, mark, y, x_interval=x)

    def front(*points: Bubble) -> str:
        return "".join(point.mark for point in pareto(points))

    fast, exact = bubble("f", (0.2, 0.3), (0.04, 0.06)), bubble("e", (0.5, 0.6), (0.0, 0.01))
    assert front(exact, fast) == "fe"
    assert front(fast, exact, bubble("w", (0.7, 0.8), (0.02, 0.03))) == "fe", "worse in both"
    assert front(fast, bubble("n", (0.21, 0.32), (0.0, 0.01))) == "n", "as fast as can be told, and nearer"
    assert front(fast, bubble("s", (0.21, 0.32), (0.035, 0.055))) == "f", "not told apart in anything"
    assert front(Bubble(1, 0, 1, "r", ""), bubble("g", (0.4, 0.5), (0.0, 1e-9))) == "g", "faster, and as near"


def test_points_without_a_mark_get_no_label() -> None:
    points = [Bubble(0, 0, 1, mark, "") for mark in ("a", "", "b", "")]
    circles = [(10.0, 10.0, 4.0), (11.0, 10.0, 4.0), (12.0, 10.0, 4.0), (200.0, 10.0, 4.0)]
    assert [text for text, *_ in labelled(points, circles)] == ["a, b"]

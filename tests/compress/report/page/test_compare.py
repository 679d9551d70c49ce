"""Several runs side by side."""

from __future__ import annotations

from dataclasses import replace

from compress.report.page.compare import differences, html, leaves, rows


def test_engines_of_every_run_stand_below_each_other(report) -> None:
    found = rows({"one": report, "two": report})
    assert [row[:2] for row in found] == [["one", "cpu"], ["one", "tensorrt"], ["two", "cpu"], ["two", "tensorrt"]]
    assert found[0][2] == "breached"
    assert found[1][-2] == "–", "what was not built has no time"


def test_only_what_differs_is_said_with_its_place(report) -> None:
    other = replace(
        report,
        recipe={"model": {"family": "var"}, "passes": [{"quantize": {"weights": "int4", "head": False}}]},
        environment=replace(report.environment, cores=8),
    )
    found = {place: said for place, *said in differences({"one": report, "two": other})}
    assert found["recipe.model.family"] == ["reference", "var"]
    assert found["recipe.passes[0].quantize.weights"] == ["–", "int4"]
    assert found["environment.cores"] == ["2", "8"]
    assert "environment.os" not in found
    assert differences({"one": report, "two": report}) == []


def test_what_is_empty_is_not_said() -> None:
    assert leaves({"a": None, "b": [], "c": "", "d": {"e": [1, 2], "f": 0.25}}, "r") == [
        ("r.d.e", "[1, 2]"),
        ("r.d.f", "0.25"),
    ]


def test_the_page_has_the_plot_and_warns_of_another_machine(report) -> None:
    same = html({"one": report, "two": report})
    assert "Drift against latency of the engines" in same
    assert "Nothing differs." in same
    assert "not measured on the same machine" not in same
    other = replace(report, environment=replace(report.environment, cpu="<Slow> CPU"))
    page = html({"one": report, "two": other})
    assert "not measured on the same machine" in page
    assert "&lt;Slow&gt; CPU" in page

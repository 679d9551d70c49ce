"""The page: whole, escaped, self-contained; and what a browser makes of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click import Context
from headless import emulate

from compress.cli import main
from compress.measure.drift.floor import Floor
from compress.measure.drift.layers import LayerDrift
from compress.measure.pictures.images import Sheet
from compress.report import load, write
from compress.report.data.outcomes import earlier, remember
from compress.report.page import html
from compress.report.page.axes import linear, logarithmic
from compress.report.page.markup import Markup, element
from compress.report.page.plots import LETTER, SERIES, WIDTH, Bar, Bubble, Line, bars, bubbles, labelled, lines, shared
from export.runtime.sheet import save_grid

VOID = {"br", "img", "input", "meta", "link"}


class Balance(HTMLParser):
    """Elements that were opened and not closed, headings and alternatives."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.silent: list[str] = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if (tag == "img" and "alt" not in named) or (tag == "svg" and not {"aria-label", "aria-hidden"} & set(named)):
            self.silent.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run_folder(report, tmp_path: Path) -> Path:
    """A run's folder with pictures."""
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        save_grid(generator.integers(0, 255, (10, 8, 8, 1), dtype=np.uint8), tmp_path / name, 5)
    shown = replace(report, sheets=(Sheet("cpu", "a.png", "b.png", 10, 5, 0, tuple(range(10))),))
    shown = replace(shown, command="compress run r.yaml -o run")
    write(shown, tmp_path)
    html.write(shown, tmp_path)
    return tmp_path


def test_the_page_is_whole_and_needs_nothing_else(run_folder: Path) -> None:
    text = (run_folder / html.PAGE).read_text()
    seen = Balance()
    seen.feed(text)
    assert seen.open == []
    assert seen.silent == [], "every picture and plot says what it shows"
    assert seen.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(seen.headings, seen.headings[1:], strict=False))
    assert not re.search(r"(src|href)=\"(?!data:|#)", text), "no other file, no network"
    assert text.count("data:image/png") == 3
    assert text.index("Failed: 1 breach") < text.index("Steps")


def test_what_is_shown_cannot_break_the_page(report, tmp_path: Path) -> None:
    evil = replace(report, recipe={"name": "<script>alert(1)</script>", "x": "</pre>&"})
    text = html.html(evil, tmp_path)
    assert "<script>alert" not in text
    assert "&lt;/pre&gt;&amp;" in text
    assert element("p", "a < b", Markup("<b>c</b>"), title='"') == '<p title="&quot;">a &lt; b<b>c</b></p>'


LAYERS = (
    LayerDrift("embedding", 1.0, 200.0, 0.0),
    LayerDrift("blocks.0", 0.99, 20.0, 0.1),
    LayerDrift("blocks.2", 0.9, 10.0, 0.3),
)


def test_every_command_on_the_page_is_one_that_the_command_line_takes(run_folder: Path) -> None:
    """Verbs, options and how many arguments each takes; what the arguments name need not exist here."""
    shown = load(run_folder / "report.json")
    engines = (replace(shown.engines[0], layers=LAYERS), *shown.engines[1:])
    page = html.html(replace(shown, engines=engines), run_folder)
    commands = {unescape(found) for found in re.findall(r"<code>(compress .*?)</code>", page)}
    verbs = set()
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        made = main.get_command(Context(main), verb)
        assert made is not None, command
        made.make_context(verb, arguments)  # raises where it does not take them
        verbs.add(verb)
    assert verbs == {"run", "verify", "bisect", "bench", "generate"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half_and_marks_one_of_three(scheme: str) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11, on both of the page's grounds."""
    style = (Path(html.__file__).parent / "page.css").read_text()
    parts = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6});", parts[0]))
    if scheme == "dark":
        colours |= dict(re.findall(r"--(\w+): (#\w{6});", parts[1]))
    for ground in ("paper", "raised"):
        for text in ("ink", "soft", "link", "pass", "fail"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in ("good", "bad", "same", "plain", *(f"c{index}" for index in range(SERIES))):
            assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)


def contrast(first: str, second: str) -> float:
    """Ratio of relative luminances, as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear_parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear_parts, strict=True))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_layers_are_a_plot_with_a_line_for_each_engine_and_the_floor(report, tmp_path: Path) -> None:
    engine = replace(report.engines[0], layers=LAYERS)
    floor = Floor(report.engines[0].fidelity, report.engines[0].fidelity, layers=LAYERS[:2])
    page = html.html(replace(report, engines=(engine,), floor=floor), tmp_path)
    plot = re.search(r'<svg[^>]*aria-label="Drift by layer".*?</svg>', page, re.DOTALL)
    assert plot is not None
    assert plot.group().count("<polyline") == 2
    assert "0.3; 10.0; 0.90000" in page


def test_a_plot_alone_is_a_picture_with_its_colours() -> None:
    drawn = html.picture(lines([Line("a", [0, 1], [1, 2])], "Title", "x", "y"))
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert "--c0" in drawn


def test_missing_pictures_are_left_out(report, tmp_path: Path) -> None:
    lost = replace(report, sheets=(Sheet("cpu", "no.png", "none.png", 1, 1, 0),))
    assert "<img" not in html.html(lost, tmp_path)


def test_axes_end_at_round_numbers_that_hold_the_values() -> None:
    axis = linear([0.3, 7.2], 0, 100)
    assert (axis.low, axis.high) == (0, 8)
    assert [axis(value) for value in (0, 4, 8)] == [0, 50, 100]
    assert [axis.text(tick) for tick in axis.ticks] == ["0", "2", "4", "6", "8"]
    log = logarithmic([1.0, 4.0], 0, 1)
    assert log.low == 1 < 4 < log.high, "equal factors begin at 1, where nothing was won"
    assert logarithmic([1.0], 0, 1)(1.0) == 0
    assert log(2) - log(1) == pytest.approx(log(4) - log(2))
    assert linear([], 0, 1).ticks
    cut = linear([0, 63], 0, 100, zero=False).cut()
    assert (cut.low, cut.high, cut(63), cut.ticks[-1]) == (0, 63, 100, 60)
    assert linear([5.0, 5.0], 0, 1, zero=False)(5.0) == 0


def test_plots_hold_a_mark_for_each_value() -> None:
    drawn = bars([Bar("a", 1, 2, (1.8, 2.2), "2.00x"), Bar("b", 2, 3, None, "3.00x")], "t", "x", log=True, chained=True)
    assert drawn.count("<rect") == 2
    assert drawn.count('class="whisker"') == 1
    cloud = bubbles([Bubble(1, 2, 4, "a", "a"), Bubble(2, 1, 1, "b", "b"), Bubble(3, 3, 1, "c", "c")], "t", "x", "y")
    assert cloud.count("<circle") == 3
    assert 'class="front"' in cloud
    near = bubbles([Bubble(1, 1, 1, "a", ""), Bubble(1.001, 1, 1, "b", ""), Bubble(1.1, 1, 1, "c", "")], "t", "x", "y")
    assert ">a, b<" in near, "marks that lie on each other share a label"
    curve = lines([Line("a", (0, 1), (1, 2), (0.5, 1.5), (1.5, 2.5))], "t", "x", "y")
    assert curve.count("<polyline") == 1
    assert curve.count("<polygon") == 1


def test_labels_of_a_crowd_lie_on_no_other_label_and_inside_the_picture() -> None:
    points = [Bubble(1 + 0.15 * index, 1.0, 9.0, f"mark {index}", "") for index in range(4)]
    circles = [(100.0 + 22 * index, 100.0, 20.0) for index in range(4)] + [(WIDTH - 10, 200.0, 20.0)]
    points.append(Bubble(9, 9, 9.0, "last", ""))
    boxes = [
        (left, middle - 7, left + LETTER * len(text), middle + 7) for text, left, middle in labelled(points, circles)
    ]
    assert len(boxes) == 5
    for index, box in enumerate(boxes):
        assert 0 <= box[0] < box[2] <= WIDTH
        assert all(shared(box, other) == 0 for other in boxes[:index])


def test_points_in_one_place_share_a_label() -> None:
    points = [Bubble(1, 1, 1, mark, "") for mark in "ab"]
    assert [text for text, *_ in labelled(points, [(50.0, 50.0, 5.0), (55.0, 52.0, 5.0)])] == ["a, b"]


def test_earlier_runs_into_a_folder_are_remembered(report, tmp_path: Path) -> None:
    remember(report, tmp_path)
    assert earlier(tmp_path) == []
    write(report, tmp_path)
    remember(report, tmp_path)
    assert earlier(tmp_path) == [], "the same report is no earlier run"
    remember(replace(report, command="another"), tmp_path)
    assert [each.engine for each in earlier(tmp_path)] == ["cpu", "tensorrt"]
    (tmp_path / "history.json").write_text("nonsense")
    assert earlier(tmp_path) == []


@pytest.mark.parametrize("size", [(1200, 900), (390, 844)], ids=["desk", "telephone"])
def test_a_browser_shows_the_page_without_a_complaint(size, browser, run_folder: Path) -> None:
    emulate(browser, size)
    browser.get((run_folder / html.PAGE).as_uri())
    assert browser.get_log("browser") == []
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('svg.plot')].map(s => [s.getBoundingClientRect().width,"
        " s.querySelectorAll('.mark').length, s.getBoundingClientRect().right])"
    )
    assert len(boxes) >= 4
    assert all(width > 200 and marks > 0 and right <= size[0] for width, marks, right in boxes)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    browser.save_screenshot(str(run_folder / "page.png"))
    assert (run_folder / "page.png").stat().st_size > 10_000


def test_the_slider_moves_by_keyboard_and_changes_what_is_seen(browser, run_folder: Path) -> None:
    emulate(browser, (1200, 900))
    browser.get((run_folder / html.PAGE).as_uri())
    slider = browser.find_element("css selector", "input[type=range]")
    over = browser.find_element("css selector", ".stack .over")
    before = over.screenshot_as_png
    shown = [over.value_of_css_property("clip-path")]
    slider.send_keys("\ue010")  # End
    shown.append(over.value_of_css_property("clip-path"))
    assert slider.get_attribute("value") == "100"
    assert shown[0] != shown[1]
    assert over.screenshot_as_png != before


def test_a_dark_desk_gets_a_dark_page(browser, run_folder: Path) -> None:
    emulate(browser, (1200, 900))
    found = []
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.get((run_folder / html.PAGE).as_uri())
        body = browser.find_element("css selector", "body")
        found.append([body.value_of_css_property(name) for name in ("background-color", "color")])
    assert found[0] != found[1]
    light, dark = (sum(map(int, re.findall(r"\d+", colours[0])[:3])) for colours in found)
    assert dark < 200 < 600 < light

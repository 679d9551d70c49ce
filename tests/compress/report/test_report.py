import json
import math
from dataclasses import replace

import pytest

from compress.core.settings import InputError
from compress.report import load, write


def test_a_report_survives_the_disk(report, tmp_path):
    assert load(write(report, tmp_path)) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_promised_keys_are_where_they_were_promised(report, tmp_path):
    value = json.loads(write(report, tmp_path).read_text())
    assert {"verdict", "environment", "recipe", "steps", "engines"} <= set(value)
    assert set(value["verdict"]) == {"passed", "breaches"}
    assert {"name", "form", "parameters", "size_bytes", "fidelity", "speed"} <= set(value["steps"][0])
    assert {"nll", "nll_drift", "kl", "agreement"} <= set(value["steps"][0]["fidelity"])
    row = value["steps"][0]["speed"][0]
    assert {"runtime", "batch", "median_ms", "ci95", "speedup_vs_reference", "speedup_vs_previous"} <= set(row)
    assert {"folder", *value["steps"][0]} <= set(value["engines"][0])


def test_a_number_that_json_cannot_hold_is_refused_and_nothing_is_left(report, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(replace(report, reference=replace(report.reference, size_share=math.nan)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_report_says_what_writes_one(tmp_path):
    with pytest.raises(InputError, match="there is no report here; `compress run` writes one into its run folder"):
        load(tmp_path / "report.json")


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "report.json").write_text('{"verdict": ')
    with pytest.raises(InputError, match=r"report.json:1:13: not valid JSON: Expecting value"):
        load(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda text: "[" * 100_000, "report.json: not valid JSON: nested deeper than 100 lists and mappings"),
        (lambda text: text.replace('"format": 1', '"format": 1, "format": 1'), "key 'format' stands twice"),
        (lambda text: text.replace('"format": 1', '"format": NaN'), "NaN is not a number in JSON"),
        (lambda text: "[]", r"report.json: \[\] is not a mapping of settings"),
        (lambda text: "null", r"report.json: 'verdict' is missing"),
        (lambda text: text.replace('"format": 1', '"format": ' + "1" * 5000), "a number of 5000 digits"),
    ],
)
def test_a_report_is_read_strictly(report, tmp_path, damage, text):
    path = write(report, tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=text):
        load(path)


def test_a_report_of_another_format_is_refused_with_the_place(report, tmp_path):
    path = write(report, tmp_path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match=r"report.json.format: 2 is out of range; it must be between 1 and 1"):
        load(path)


@pytest.fixture
def written(report, tmp_path):
    """A function that changes the first engine of a written report; the report's path."""

    def change(**rows):
        path = write(report, tmp_path)
        value = json.loads(path.read_text())
        value["engines"][0].update(rows)
        path.write_text(json.dumps(value))
        return path

    return change


CACHED = {"pictures": 8, "kl": 0.0, "kl_ci95": [0.0, 0.0], "max_abs_difference": 0.0}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({**CACHED, "unknown": 0}, r"engines\[0\].measures.cached_loop: unknown key 'unknown'"),
        ({"kl": 0.0}, r"engines\[0\].measures.cached_loop: 'pictures' is missing"),
        ({**CACHED, "kl": "much"}, r"engines\[0\].measures.cached_loop.kl: 'much' is not a number"),
        ([], r"engines\[0\].measures.cached_loop: \[\] is not a mapping"),
    ],
)
def test_what_an_installed_measure_found_is_read_strictly(written, found, said):
    with pytest.raises(InputError, match=rf"report.json.{said}"):
        load(written(measures={"cached_loop": found}))


def test_what_a_measure_found_that_is_not_installed_stays_as_it_is(written):
    found = {"cached_loop": None, "of_another_package": {"anything": [1]}}
    assert load(written(measures=found)).engines[0].measures == found


def test_notes_may_be_of_any_pass_but_those_that_all_have_are_read_strictly(written):
    assert load(written(notes={"of_a_pass": {"anything": 1}})).engines[0].notes == {"of_a_pass": {"anything": 1}}
    with pytest.raises(InputError, match=r"report.json.engines\[0\].notes.fused: 3 is not a mapping"):
        load(written(notes={"fused": 3}))

"""A comparison for a user's CI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from compress.recipe.gates import gate
from compress.recipe.verdict import Breach, Verdict
from compress.verifying.comparison import compare
from compress.verifying.junit import junit, summary

ROWS = [["kl", "0", "0 to 0"], ["one file tokens", "0.5", ""]]


def cases(text: str) -> dict[str, ElementTree.Element]:
    return {case.get("name", ""): case for case in ElementTree.fromstring(text).iter("testcase")}


def test_what_was_not_measured_and_need_not_be_is_skipped(checkpoint: Path) -> None:
    limits = gate(kl=1, single_file_tokens=0.1, unmeasured="kept")
    result = compare(str(checkpoint), str(checkpoint), limits, "digits", 3, threads=1)
    text = junit(result, limits, ROWS)
    found = cases(text)
    assert found["single_file_tokens"].find("skipped") is not None
    assert list(found["kl"]) == []
    suite = ElementTree.fromstring(text)[0]
    assert (suite.get("skipped"), suite.get("failures")) == ("1", "0")
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties == {"kl": "0 [0 to 0]", "one file tokens": "0.5"}
    assert "| single_file_tokens | 10 % | not measured |" in summary(result, limits, ROWS)


def test_a_gate_and_a_promise_on_the_same_measurement_are_both_said(checkpoint: Path) -> None:
    result = compare(str(checkpoint), str(checkpoint), None, "digits", 3, threads=1)
    both = [Breach("e", "coupled_tokens", 0.5, limit, f"above {limit}") for limit in (0.05, 0.1)]
    text = junit(replace(result, verdict=Verdict.of(both)), gate(coupled_tokens=0.1), [])
    (failure,) = cases(text)["coupled_tokens"]
    assert failure.get("message") == "above 0.05; above 0.1"
    assert ElementTree.fromstring(text)[0].get("failures") == "1"

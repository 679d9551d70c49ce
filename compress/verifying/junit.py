"""A comparison for a user's CI: JUnit XML with a case for each gate and promise, and a summary in Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

from compress.recipe.gates import Gate
from compress.report.text.markdown import grid
from compress.verifying.comparison import Comparison

SUITE = "compress verify"
ABOVE_GATES = "evidence"  # a breach that no gate asked for


def junit(result: Comparison, gate: Gate | None) -> str:
    """JUnit XML: the suite is the comparison, a case each gate or promise, a failure the breach in its sentence."""
    breaches = {breach.measurement: breach.text for breach in result.verdict.breaches}
    promises = [name for found in result.results.values() for name in found.promises]
    gates = [key.limit.key for key in (gate.limits if gate else ())]
    keys = list(dict.fromkeys([*gates, *promises, ABOVE_GATES]))
    return suite_of(result.reference, result.candidate, {key: breaches.get(key) for key in keys}, "failure", "breach")


def junit_of_error(reference: str, candidate: str, error: str) -> str:
    """JUnit XML of a comparison that could not be made: its one case is an error."""
    return suite_of(reference, candidate, {"measured": error}, "error", "input")


def suite_of(reference: str, candidate: str, cases: dict[str, str | None], tag: str, kind: str) -> str:
    """JUnit XML of one suite: for each case what is wrong, or None."""
    wrong = str(sum(text is not None for text in cases.values()))
    suite = ElementTree.Element(
        "testsuite",
        name=f"{SUITE} {reference} {candidate}",
        tests=str(len(cases)),
        failures=wrong if tag == "failure" else "0",
        errors=wrong if tag == "error" else "0",
        skipped="0",
    )
    for name, text in cases.items():
        case = ElementTree.SubElement(suite, "testcase", classname=f"compress.{candidate}", name=name)
        if text is not None:
            ElementTree.SubElement(case, tag, message=text, type=kind).text = text
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def summary(result: Comparison, gate: Gate | None, rows: list[list[str]]) -> str:
    """A page of Markdown: the verdict, every gate, and the measurements (name, value, interval)."""
    breaches = {breach.measurement: breach.text for breach in result.verdict.breaches}
    state = "every gate was kept" if result.verdict.passed else f"{len(breaches)} breach{'es' * (len(breaches) > 1)}"
    lines = [f"# {'Passed' if result.verdict.passed else 'Failed'}: {state}", ""]
    lines += [f"`{result.candidate}` against `{result.reference}`, {result.fidelity.pictures} pictures", ""]
    if gate is not None and gate.limits:
        limits = [
            (key.limit.key, key.quantity.words(limit), "breach" if key.limit.key in breaches else "kept")
            for key, limit in gate.limits.items()
        ]
        lines += [*grid(("gate", "limit", ""), limits), ""]
    lines += [*(f"- {text}" for text in breaches.values()), *([""] if breaches else [])]
    lines += grid(("measurement", "value", "95 % interval"), rows)
    return "\n".join(lines) + "\n"

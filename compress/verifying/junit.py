"""A comparison for a user's CI: JUnit XML with a case for each gate, and a summary in Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

from compress.recipe.gates import Gate
from compress.report.text.markdown import grid
from compress.verifying.comparison import Comparison

SUITE = "compress verify"
ABOVE_GATES = "evidence"  # a breach that no gate asked for


def junit(result: Comparison, gate: Gate | None) -> str:
    """JUnit XML: the suite is the comparison, a case each gate's key, a failure the breach in its sentence."""
    breaches = {breach.measurement: breach.text for breach in result.verdict.breaches}
    keys = [*(key.limit.key for key in (gate.limits if gate else ())), ABOVE_GATES]
    suite = ElementTree.Element(
        "testsuite",
        name=f"{SUITE} {result.reference} {result.candidate}",
        tests=str(len(keys)),
        failures=str(sum(key in breaches for key in keys)),
        errors="0",
        skipped="0",
    )
    for key in keys:
        case = ElementTree.SubElement(suite, "testcase", classname=f"compress.{result.candidate}", name=key)
        if key in breaches:
            failure = ElementTree.SubElement(case, "failure", message=breaches[key], type="breach")
            failure.text = breaches[key]
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

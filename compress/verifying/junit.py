"""A comparison for a user's CI: JUnit XML with a case for each gate and promise, and a summary in Markdown.

What was measured stands in the XML as properties of the suite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from xml.etree import ElementTree

from compress.recipe.gates import Gate
from compress.report.text.markdown import grid
from compress.verifying.comparison import Comparison
from export.runtime.counted import counted

SUITE = "compress verify"
ABOVE_GATES = "evidence"  # a breach that no gate asked for


def junit(result: Comparison, gate: Gate | None, rows: list[list[str]]) -> str:
    """JUnit XML: the suite is the comparison, a case each gate or promise, a failure its breaches in their sentences.

    A gate of what was not measured, and need not be, is skipped. `rows` are measurements (name, value, interval).
    """
    promises = [name for found in result.results.values() for name in found.promises]
    gates = [key.limit.key for key in (gate.limits if gate else ())]
    keys = list(dict.fromkeys([*gates, *promises, ABOVE_GATES]))
    breaches = sentences(result)
    judged = {*promises, *breaches, ABOVE_GATES}
    skipped = [key for key in keys if key not in judged and not measured(result, gate, key)]
    cases = {key: breaches.get(key) for key in keys}
    properties = {name: f"{value} [{interval}]" if interval else value for name, value, interval in rows}
    return suite_of(result.reference, result.candidate, cases, "failure", "breach", skipped, properties)


def sentences(result: Comparison) -> dict[str, str]:
    """What is wrong with each measurement: of a gate and a promise on the same one both are said."""
    found: dict[str, list[str]] = {}
    for breach in result.verdict.breaches:
        found.setdefault(breach.measurement, []).append(breach.text)
    return {name: "; ".join(texts) for name, texts in found.items()}


def measured(result: Comparison, gate: Gate | None, name: str) -> bool:
    """Whether a gate's quantity was found."""
    wanted = [key.measure for key in (gate.limits if gate else ()) if key.limit.key == name]
    return all(measure is None or measure.name in result.results for measure in wanted)


def junit_of_error(reference: str, candidate: str, error: str) -> str:
    """JUnit XML of a comparison that could not be made: its one case is an error."""
    return suite_of(reference, candidate, {"measured": error}, "error", "input")


def suite_of(
    reference: str,
    candidate: str,
    cases: dict[str, str | None],
    tag: str,
    kind: str,
    skipped: Collection[str] = (),
    properties: Mapping[str, str] | None = None,
) -> str:
    """JUnit XML of one suite: for each case what is wrong, or None."""
    wrong = str(sum(text is not None for text in cases.values()))
    suite = ElementTree.Element(
        "testsuite",
        name=f"{SUITE} {reference} {candidate}",
        tests=str(len(cases)),
        failures=wrong if tag == "failure" else "0",
        errors=wrong if tag == "error" else "0",
        skipped=str(len(skipped)),
    )
    if properties:
        held = ElementTree.SubElement(suite, "properties")
        for name, value in properties.items():
            ElementTree.SubElement(held, "property", name=name, value=value)
    for name, text in cases.items():
        case = ElementTree.SubElement(suite, "testcase", classname=f"compress.{candidate}", name=name)
        if text is not None:
            ElementTree.SubElement(case, tag, message=text, type=kind).text = text
        elif name in skipped:
            ElementTree.SubElement(case, "skipped", message="not measured")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def summary(result: Comparison, gate: Gate | None, rows: list[list[str]]) -> str:
    """A page of Markdown: the verdict, every gate, and the measurements (name, value, interval)."""
    breaches = sentences(result)
    state = "every gate was kept" if result.verdict.passed else f"{len(breaches)} breach{'es' * (len(breaches) > 1)}"
    lines = [f"# {'Passed' if result.verdict.passed else 'Failed'}: {state}", ""]
    lines += [f"`{result.candidate}` against `{result.reference}`, {counted(result.fidelity.pictures, 'picture')}", ""]
    if gate is not None and gate.limits:
        limits = [
            (name, key.quantity.words(limit),
             "breach" if name in breaches else "kept" if measured(result, gate, name) else "not measured")
            for key, limit in gate.limits.items()
            for name in [key.limit.key]
        ]  # fmt: skip
        lines += [*grid(("gate", "limit", ""), limits), ""]
    lines += [*(f"- {text}" for text in breaches.values()), *([""] if breaches else [])]
    lines += grid(("measurement", "value", "95 % interval"), rows)
    return "\n".join(lines) + "\n"

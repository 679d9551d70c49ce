from dataclasses import replace

from rich.console import Console

from compress.recipe.verdict import Verdict
from compress.report.text.table import headline, overview_table


def printed(report, width=130):
    console = Console(width=width, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(overview_table(report, width))
    return console.export_text()


def test_every_model_has_a_row_with_its_numbers(report):
    lines = printed(report).splitlines()
    (cpu,) = (line for line in lines if line.strip().startswith("cpu "))
    for cell in ("5.51 M", "6.1 MB", "0.469", "3.60x", "breach"):
        assert cell in cpu
    assert "3.00x" not in cpu, "what the last step won is in the row of that step"
    (distill,) = (line for line in lines if line.strip().startswith("distill "))
    assert "no measurable" in distill
    assert "does not pay" in distill


def test_flags_and_breaches_are_said_in_words_below(report):
    text = printed(report)
    assert "cpu: agreement " in text
    assert "distill: does not pay: no measurable change in speed, no fewer bytes" in text
    assert "tensorrt: not built: TensorRT is not installed" in text


def test_the_headline_counts_the_breaches(report):
    assert headline(report) == "failed: 1 breach"
    assert headline(replace(report, verdict=Verdict(False, report.verdict.breaches * 2))) == "failed: 2 breaches"
    assert headline(replace(report, verdict=Verdict(True, ()))) == "passed: every gate was kept"


def test_the_table_fits_a_narrow_console(report):
    assert all(len(line) <= 100 for line in printed(report, width=100).splitlines())

"""The command `verify`: a candidate against a reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli import completing
from compress.cli.group import device_options, example, json_option, leave, threads_option
from compress.cli.paths import GatesFile, OutputFile
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json, print_line, print_rows
from compress.core.settings import InputError

if TYPE_CHECKING:
    from compress.verifying.comparison import Comparison
    from compress.verifying.selftest import SelfTest


def self_test(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Try the verifier on planted faults and on an equal model, and leave with the result."""
    if not value or context.resilient_parsing:
        return
    from compress.verifying import selftest

    with Terminal().work("self-test") as progress:
        found = selftest.run(lambda done, count: progress(done, count, {}))
    show(found)
    leave(passed=found.passed)


def show(found: SelfTest) -> None:
    """The tables of a self-test, narrow enough for 80 columns, and its result."""
    from compress.verifying.selftest import SETS, only_seen_by

    for base in dict.fromkeys(each.base for each in found.faults):
        print_rows(
            f"faults planted in the {base} engine" if " " not in base else f"faults planted in the {base}",
            ["fault", "noticed by", "named"],
            [
                [each.fault, few(each.noticed) or ("MISSED" if each.above else "below the floor"), each.named or "–"]
                for each in found.faults
                if each.base == base
            ],
        )
    print_rows(
        "faults that each set of gates notices",
        ["engine", "faults", *SETS],
        [
            [base, str(len(faults)), *(str(sum(bool(each.seen.by(gates)) for each in faults)) for gates in SETS)]
            for base in dict.fromkeys(each.base for each in found.counted)
            for faults in [[each for each in found.counted if each.base == base]]
        ],
    )
    print_rows(
        "nothing wrong",
        ["edit", "engine", "gates", "false alarms"],
        [[each.edit, each.base, each.gates, f"{len(each.rang)} of {each.trials}"] for each in found.quiet],
    )
    print_rows(
        "faults that one measure alone noticed",
        ["measure", "faults", "such as"],
        [
            [name, str(len(seen)), seen[0].fault if seen else "none"]
            for name, seen in only_seen_by(found.counted).items()
        ],
    )
    for line in found.words():
        print_line(line)
    print_line(f"{found.seconds:.0f} s of processor time; {'passed' if found.passed else 'NOT passed'}")


def few(noticed: tuple[str, ...]) -> str:
    """The first measurement that rang, and how many more."""
    return f"{noticed[0]}{f' +{len(noticed) - 1}' if noticed[1:] else ''}" if noticed else ""


@click.command()
@saying_options
@example("compress verify digits runs/quickstart/engines/cpu --gates gates.yaml --json")
@click.argument("reference", shell_complete=completing.models)
@click.argument("candidate", shell_complete=completing.models)
@click.option(
    "--gates",
    type=GatesFile(),
    help="'exact', 'lossy', or a file: a YAML mapping of gates, for example  nll_drift: 2%",
)
@click.option(
    "--tokens",
    "source",
    default="digits",
    show_default=True,
    help="'digits', a TokenSet (.npz), or 'drawn': pictures that the reference draws.",
)
@click.option("--held-out", type=click.IntRange(2), default=None, help="Pictures that are scored.  [default: all]")
@click.option("--samples", type=click.IntRange(2), help="Pictures that both draw with the same noise.  [default: 32]")
@click.option("--quick", is_flag=True, help="A first look: 32 pictures are scored and 4 are drawn; intervals are wide.")
@click.option(
    "--self-test",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=self_test,
    help="Plant faults into models and see that the verifier finds every one; needs no arguments.",
)
@click.option("--junit", type=OutputFile(), help="Write a JUnit XML file: a case for each gate and promise.")
@click.option("--markdown", type=OutputFile(), help="Write a summary in Markdown.")
@click.option("--than", help="Another candidate: is the first one closer to the reference than this one?")
@click.option(
    "--on",
    metavar="PLACE",
    help="Who draws and scores: local:N (N processes), ray, or ray://HOST:PORT.  [default: this process]",
)
@threads_option
@device_options
@json_option
def verify(
    reference: str,
    candidate: str,
    gates: Path | None,
    source: str,
    held_out: int | None,
    samples: int | None,
    quick: bool,
    than: str | None,
    junit: Path | None,
    markdown: Path | None,
    on: str | None,
    threads: int,
    device: str | None,
    provider_options: tuple[str, ...],
    require_plan: bool,
    as_json: bool,
) -> None:
    """Measure how far a candidate's outputs drift from a reference's, on held-out tokens.

    Each of the two is a shipped model, a checkpoint folder or an engine folder. Exits with 1 if a gate is breached or
    a promise is broken, or if the reference's predictions are such that no drift could show.

    With --on, workers draw and score, with --threads each. Every number is that of one process, bit for bit.
    """
    from compress.core.strict_yaml import read_yaml

    if on is not None:
        from compress.workers.place import place_of

        place_of(on)
        if device is not None or provider_options or require_plan:
            raise InputError("--device, --provider-option, --require-plan: workers draw on processors; leave --on out")
    limits = read_yaml(gates) if gates else None  # before anything heavy is imported
    from compress.recipe.early import check_model, check_tokens

    with errors_in(junit, reference, candidate):
        for name in (reference, candidate):
            check_model(name, f"{name}.checkpoint")
        check_tokens(source, "--tokens", "drawn")
    from compress import api
    from compress.models.candidate import on_device
    from compress.recipe.gates import read_gate
    from compress.report.text.cells import precision
    from compress.verifying import junit as reports

    gate = read_gate(limits, f"{gates}:") if gates else None
    with errors_in(junit, reference, candidate):
        theirs, own = on_device([reference, candidate], threads, device, provider_options, require_plan=require_plan)
        result = api.verify(
            theirs,
            own,
            gate,
            tokens=source,
            held_out=held_out,
            than=than,
            threads=threads,
            samples=samples,
            quick=quick,
            on=on or "",
            listener=Terminal(),
        )
    if junit is not None:
        junit.write_text(reports.junit(result, gate, drift_rows(result)), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(reports.summary(result, gate, drift_rows(result)), encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        print_rows(f"{candidate} against {reference}", ["measurement", "value", "95 % interval"], drift_rows(result))
        print_line(precision(result.fidelity))
        if (nearer := result.difference) is not None and nearer.kl_ci95[0] <= 0 <= nearer.kl_ci95[1]:
            print_line(f"no measurable change of the KL against that of {nearer.other}: the interval holds 0")
        for breach in result.verdict.breaches:
            print_line(f"breach: {breach.text}")
        if gate is not None and result.verdict.passed:
            print_line("every gate holds")
    leave(passed=result.verdict.passed)


@contextmanager
def errors_in(junit: Path | None, reference: str, candidate: str) -> Iterator[None]:
    """Write an error into the report too: a CI that reads the file alone sees why there is no verdict."""
    try:
        yield
    except InputError as error:
        if junit is not None:
            from compress.verifying import junit as reports

            junit.write_text(reports.junit_of_error(reference, candidate, str(error)), encoding="utf-8")
        raise


def drift_rows(result: Comparison) -> list[list[str]]:
    """A comparison as rows of a table: every quantity of every measure, with its interval."""
    from compress.report.text.numbers import between, numbers_of

    parts: list[tuple[str, object]] = [(found.words(), found) for found in result.results.values()]
    if (nearer := result.difference) is not None:
        parts.append((f"less that of {nearer.other}:", nearer))
    return [
        [f"{label} {name}".strip(), f"{value:.5g}", between(interval)]
        for label, part in parts
        for name, value, interval in numbers_of(part)
    ]

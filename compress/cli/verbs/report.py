"""The command `report`: a finished run again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from compress.cli.group import example, json_option
from compress.cli.paths import OutputFile, UserPath
from compress.cli.terminal import console, print_json, print_line, print_rows

COMPARED = "comparison.html"
REPORT = "report.json"
TRAINING = "training.json"  # what `compress train` leaves in its folder


@click.command()
@example("compress report runs/quickstart --open")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=UserPath())
@click.option("--open", "browse", is_flag=True, help="Show the page in the browser; that of one run is made anew.")
@click.option("--compare", is_flag=True, help="Show the engines of several runs side by side.")
@click.option("-o", "--output", type=OutputFile(), help=f"Page of --compare.  [with --open: {COMPARED}]")
@click.option("--figures", type=UserPath(), help="Write every figure into this folder: SVG, and its numbers as CSV.")
@json_option
def report(
    runs: tuple[Path, ...], browse: bool, compare: bool, output: Path | None, figures: Path | None, as_json: bool
) -> None:
    """Show a finished run's report again, or the engines of several runs side by side.

    Of a folder that `compress train` wrote, --figures writes the curves of the training.

    --compare also says what differs in their recipes and machines; with -o or --open it writes a page.
    """
    from compress.core.settings import InputError

    if compare != (len(runs) > 1):
        said = "compares several runs; name two at least" if compare else "belongs to several runs; name one"
        raise InputError(f"--compare {said}")
    if output is not None and not compare:
        raise InputError("--output goes with --compare; the page of one run lies in its folder")
    if figures is not None and compare:
        raise InputError("--figures goes with one run; --compare writes a page with -o")
    for run in runs:
        if not any(os.path.lexists(run / name) for name in (REPORT, TRAINING)):  # before anything heavy is imported
            raise InputError(f"{run / REPORT}: there is no report here; `compress run` writes one into its run folder")
    from compress import report as reports
    from compress.report.page import compare as comparing
    from compress.report.page import html
    from compress.report.text.table import overview_table
    from compress.running import pipeline

    if figures is not None and (runs[0] / TRAINING).is_file() and not (runs[0] / REPORT).exists():
        from compress.report.page import files

        tell_written(files.write([files.training_figure(files.training_log(runs[0]))], figures), as_json)
        return
    found = {str(folder): reports.load(folder / reports.FILE) for folder in runs}
    if compare:
        if as_json:
            print_json({"engines": comparing.outcomes(found), "differences": comparing.differences(found)})
        else:
            print_rows(
                "engines, each against the reference of its own run", [*comparing.HEADERS], comparing.rows(found)
            )
            print_rows("what differs", ["place", *found], comparing.differences(found))
        if output is not None or browse:
            output = output or Path(COMPARED)
            output.write_text(comparing.html(found), encoding="utf-8")
            click.echo(f"page: {output}", err=as_json)
            if browse:
                show(output)
        return
    (run_folder,), (result,) = runs, found.values()
    if figures is not None:
        from compress.report.page import files

        tell_written(files.write(files.figures_of(result, run_folder), figures), as_json)
        return
    if as_json:
        print_json(result)
        return
    shown = console()
    shown.print(overview_table(result, shown.width))
    for line in pipeline.closing_lines(result, run_folder):
        print_line(line)
    if browse:
        try:
            page = html.write(result, run_folder)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"{run_folder / reports.FILE}: holds what no page can show ({error})") from error
        show(page)


def tell_written(paths: list[Path], as_json: bool) -> None:
    """Say which files hold the figures."""
    if as_json:
        print_json({"figures": [str(path) for path in paths]})
        return
    for path in paths:
        print_line(str(path))


def show(path: Path) -> None:
    """A page in the browser."""
    import webbrowser

    webbrowser.open(path.resolve().as_uri())

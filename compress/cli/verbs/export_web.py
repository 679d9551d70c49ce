"""The command `export-web`: an engine as a page that draws in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, json_option
from compress.cli.paths import UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json


@click.command("export-web")
@saying_options
@example("compress export-web runs/quickstart/engines/cpu -o site/")
@click.argument("engine", type=UserPath())
@click.option("-o", "--output", type=UserPath(), required=True, help="The folder to write, new or an earlier site.")
@click.option(
    "--runtime", type=UserPath(),
    help="onnxruntime-web as npm packs it (.tgz), or a folder of it.  [default: the cache, else npm]",
)  # fmt: skip
@json_option
def export_web(engine: Path, output: Path, runtime: Path | None, as_json: bool) -> None:
    """Write an engine as a static page that draws in a browser, from any file server.

    A seed gives the picture that the engine draws with it, unless that rounds what its layers read (int8, float16). The
    page, the graphs and onnxruntime-web are all in the folder; the browser asks no other server. npm fetches
    onnxruntime-web once; afterwards it lies in the cache.
    """
    from compress.core.settings import InputError
    from compress.recipe.early import check_engine

    check_engine(engine)
    from compress.models import artifact
    from export.runtime.engine import EngineError
    from export.web.ort_web import RuntimeMissingError, obtain
    from export.web.site import SiteError, check, check_folder, rounds, write

    shown = Terminal()
    try:
        with shown.work(f"read {engine}"):
            model = artifact.load(engine, artifact.Form.ONNX)
            check(model, engine)  # type: ignore[arg-type]  # an engine folder never holds a torch model
            check_folder(output)
        shown.say(f"onnxruntime-web: from {runtime or 'the cache, else npm'}")
        with shown.work("read onnxruntime-web"):
            files = obtain(runtime)
        shown.say(f"write {output}: the page, the graphs of {engine}, onnxruntime-web")
        with shown.work(f"write {output}"):
            bytes_written = write(model, engine, output, files)  # type: ignore[arg-type]
    except (EngineError, SiteError, RuntimeMissingError) as error:
        raise InputError(str(error)) from error
    if as_json:
        rounded = rounds(model)  # type: ignore[arg-type]
        print_json({"output": str(output), "bytes": bytes_written, "equals_engine": not rounded})
        return
    click.echo(f"{output}: {bytes_written / 1e6:.1f} MB; try it with  python -m http.server --directory {output}")
    if rounds(model):  # type: ignore[arg-type]
        click.echo(
            "its pictures in a browser are not all those of the engine: what its layers read is rounded (int8 or half "
            "precision), and one number that is rounded otherwise changes all that follows (docs/browser.md)"
        )

"""The command `serve`: an engine over HTTP."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from compress.cli.group import device_options, example, json_option, threads_option
from compress.cli.paths import UserPath
from compress.cli.saying import noting_log, saying_options
from compress.cli.terminal import Terminal, print_json

LARGEST_PORT = 65_535
LONGEST_S = 3600


@click.command()
@saying_options
@example("compress serve runs/quickstart/engines/cpu --port 8000")
@click.argument("engine", type=UserPath())
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at; 0.0.0.0 is every one.")
@click.option(
    "--port", type=click.IntRange(0, LARGEST_PORT), default=8000, show_default=True, help="Its port; 0 is a free one."
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Batches drawn at a time, by threads that share the engine.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 1024), help="Pictures drawn at once.  [default: as many as gain by it]")
@click.option(
    "--deadline-ms", type=click.FloatRange(0, 1000 * LONGEST_S), default=5, show_default=True,
    help="How long a picture waits for others to be drawn with.",
)  # fmt: skip
@click.option(
    "--queue", "capacity", type=click.IntRange(1), default=256, show_default=True,
    help="Pictures that may wait; further requests are refused at once.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, LONGEST_S, min_open=True), default=30, show_default=True,
    help="Seconds until a request is given up.",
)  # fmt: skip
@click.option(
    "--most", "most_pictures", type=click.IntRange(1, 1024), default=16, show_default=True,
    help="Pictures that a request may ask for.",
)  # fmt: skip
@threads_option
@device_options
@json_option
def serve(
    engine: Path, host: str, port: int, workers: int, batch: int | None, deadline_ms: float, capacity: int,
    timeout_s: float, most_pictures: int, threads: int, device: str | None, provider_options: tuple[str, ...],
    require_plan: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw with an engine over HTTP: POST /generate, a page at /, and /health, /ready and /metrics.

    Requests are drawn together, and each gets the pictures that it would get alone. Whoever reaches the address may
    draw: there is no password. SIGTERM and Ctrl-C finish what was accepted. -v says each request, and --log-file keeps
    them all.
    """
    from compress.core.settings import InputError
    from compress.serving import server

    server.require()
    with server.bound(host, port) as listener:
        from compress.models.candidate import open_engine
        from compress.serving.settings import LOG, Settings
        from export.runtime.devices import parsed_options

        try:
            options = parsed_options(list(provider_options))
        except ValueError as error:
            raise InputError(str(error)) from error
        shown = Terminal()
        opened = open_engine(engine, threads, device, options, require_plan=require_plan)
        settings = Settings(batch or 0, deadline_ms / 1000, capacity, workers, most_pictures, timeout_s)
        address = server.url(listener)
        ready = f"{address} draws with {engine}; Ctrl-C stops it"

        def on_start() -> None:
            held.enter_context(noting_log(LOG, shown.saying))  # uvicorn has set up its log by now
            shown.saying.note(ready)
            click.echo(ready, err=as_json)

        on_request = shown.say if shown.saying.verbose else shown.saying.note
        with contextlib.ExitStack() as held:
            served = server.serve(opened, settings, listener, on_start, on_request)
        shown.saying.note("stopped; what was accepted is finished")
    if as_json:
        print_json({"requests": served.requests, "pictures": served.pictures})
        return
    click.echo(f"stopped; requests answered: {served.requests}, pictures drawn for them: {served.pictures}")

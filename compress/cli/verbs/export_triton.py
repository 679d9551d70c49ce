"""The command `export-triton`: an engine for NVIDIA Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from compress.cli.group import example, json_option, threads_option
from compress.cli.paths import UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_line


@click.command("export-triton")
@saying_options
@example("compress export-triton runs/quickstart/engines/cpu -o model_repository/")
@click.argument("engine", type=UserPath())
@click.option("-o", "--output", type=UserPath(), required=True, help="The model repository; it may hold other models.")
@click.option("--name", help="What Triton calls the model that draws.  [default: the folder's name]")
@click.option(
    "--backend", type=click.Choice(["onnxruntime", "tensorrt"]), default="onnxruntime", show_default=True,
    help="What serves the decode graph as a model of its own.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where the models run."
)
@click.option("--batch", type=click.IntRange(1, 1024), default=16, show_default=True, help="Pictures drawn at once.")
@threads_option
@json_option
def export_triton(
    engine: Path, output: Path, name: str | None, backend: Literal["onnxruntime", "tensorrt"],
    device: Literal["cpu", "cuda"], batch: int, threads: int, as_json: bool,
) -> None:  # fmt: skip
    """Write an engine as models of a Triton model repository.

    The first model draws: classes, seeds and settings of sampling in, pictures out. It holds all that it needs, and
    draws requests together without changing a picture. The graphs follow as models of their own.
    """
    from compress.core.settings import InputError
    from compress.recipe.early import check_engine

    check_engine(engine)
    from compress.models.candidate import open_engine
    from export.targets.triton_layout import Serving, TritonError, write

    opened = open_engine(engine, threads, "cpu")
    serving = Serving(name or engine.resolve().name, backend, device, batch, threads)
    try:
        names = write(opened, output, serving)
    except TritonError as error:
        raise InputError(str(error)) from error
    if as_json:
        print_json({"output": str(output), "models": names})
        return
    print_line(f"{output}: {', '.join(names)}; docs/serving.md says how to start Triton with it")

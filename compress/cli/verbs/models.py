"""The command `models`: what ships, what a checkpoint is, and whether it loads rightly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli import completing
from compress.cli.group import Group, example, json_option, leave
from compress.cli.paths import OutputFile, UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_line, print_rows
from export.runtime.counted import counted, of_number

if TYPE_CHECKING:
    from compress.models.families import Source
    from compress.verifying.inspection import Inspection


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what a checkpoint's files do not."""
    for option in reversed(
        (
            click.argument("path", shell_complete=completing.models),
            click.option("--family", default="", help="The checkpoint's format.  [default: recognised]"),
            click.option("--tokenizer", default="", help="The image tokenizer's weights."),
            click.option("--set", "stated", multiple=True, metavar="KEY=VALUE", help="A key of config.json, as JSON."),
        )
    ):
        function = option(function)
    return function


def source_from(path: str, family: str, tokenizer: str, stated: tuple[str, ...]) -> Source:
    """Where the model comes from; a recipe's path stands for its model."""
    from compress.core.settings import InputError, shown
    from compress.models.candidate import source_of

    config: dict[str, Any] = {}
    for each in stated:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InputError(f"--set: {shown(each)} is not KEY=VALUE, for example  --set n_head=12")
        try:
            config[key] = json.loads(value)
        except ValueError:
            config[key] = value
    return source_of(path).stating(family, tokenizer, config)


@click.group(cls=Group, invoke_without_command=True)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List what ships and what can be read; `inspect` and `check` look at a checkpoint.

    \b
    Example:
      compress models --json
    """
    if context.invoked_subcommand is not None:
        return
    from compress.cli import catalogue

    found = catalogue.models()
    if as_json:
        print_json(found)
        return
    shipped = [
        [m["name"], f"{m['parameters'] / 1e6:.2f} M", f"{m['size_bytes'] / 1e6:.1f} MB", f"{m['held_out_nll']:.4f}",
         m["doc"]]
        for m in found["models"]
    ]  # fmt: skip
    if shipped:
        print_rows(
            "shipped models",
            ["model", "parameters", "size", "held-out NLL", "what it draws"],
            shipped,
            ("size", "held-out NLL"),
        )
    else:
        print_line("no shipped model is here; `compress train train-digits -o FOLDER` makes one")
    print_rows("families", ["family", "what it reads"], [[f["name"], f["doc"]] for f in found["families"]])
    print_rows("image tokenizers", ["format", "what it reads"], [[t["name"], t["doc"]] for t in found["tokenizers"]])


@models.command("inspect")
@example("compress models inspect c2i_B_256.pt")
@source_options
@json_option
def models_inspect(path: str, family: str, tokenizer: str, stated: tuple[str, ...], as_json: bool) -> None:
    """Say what a checkpoint is, from its names and shapes alone: family, size, what can be pruned, engines' sizes."""
    from compress.recipe.early import check_model

    check_model(path, f"{path}.checkpoint")
    from compress.verifying.inspection import inspect

    found = inspect(source_from(path, family, tokenizer, stated))
    if as_json:
        print_json(found)
        return
    print_rows(f"{found.path}: {found.family}", ["", ""], inspection_rows(found))


def inspection_rows(found: Inspection) -> list[list[str]]:
    """An inspection as rows of a table."""

    def sizes(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in values.items())

    rows = [
        ["kind", found.kind],
        ["parameters", f"{found.parameters / 1e6:.2f} M"],
        ["on disk", f"{found.bytes_on_disk / 1e6:.1f} MB"],
        ["memory of the weights", sizes(found.memory_bytes)],
    ]
    rows += [["note", note] for note in found.notes]
    if not found.prunable:  # a tokenizer, or a decoder that is read as a graph
        return rows
    config = {name: value for name, value in found.config.items() if name != "layers" and value not in (None, [], 0)}
    heads, units = found.prunable["heads"], found.prunable["ffn_units"]
    return [
        *rows,
        ["parts", ", ".join(f"{name} {count / found.parameters:.0%}" for name, count in found.parts.items())],
        ["can be pruned", f"{counted(found.prunable['layers'], 'layer')}; {spread(heads)} "
                          f"{of_number(max(heads), 'head')} and {spread(units)} feed-forward units in each"],
        ["engine, predicted", sizes(found.engine_bytes)],
        ["config", ", ".join(f"{name} {value}" for name, value in config.items())],
    ]  # fmt: skip


def spread(counts: list[int]) -> str:
    """One number, or the smallest to the largest."""
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


@models.command("check")
@saying_options
@example("compress models check c2i_B_256.pt --golden golden.npz")
@source_options
@click.option("--golden", type=UserPath(), help="Outputs of the original implementation (.npz).")
@json_option
def models_check(
    path: str, family: str, tokenizer: str, stated: tuple[str, ...], golden: Path | None, as_json: bool
) -> None:
    """Prove that a checkpoint loads rightly: in PyTorch, step by step, and in an exactly exported engine.

    With a golden file every array is compared with the original implementation's outputs; without one the three are
    compared with each other on random tokens. Exits with 1 if something differs.
    """
    from compress.recipe.early import check_model

    check_model(path, f"{path}.checkpoint")
    from compress.verifying.golden import compare

    rows = compare(source_from(path, family, tokenizer, stated), golden)
    if as_json:
        print_json(rows)
    else:
        against = golden or "one pass in PyTorch, random tokens"
        print_rows(f"{path} against {against}", ["array", "computed by", "largest difference", "allowed", ""], [
            [row.array, row.where, f"{row.largest:.3g}", f"{row.allowed:g}", "agrees" if row.agrees else "DIFFERS"]
            for row in rows
        ])  # fmt: skip
    leave(passed=all(row.agrees for row in rows))


@models.command("features")
@saying_options
@example('compress models features amused-256/ "a cat on a mat" -o features.npy')
@click.argument("pipeline", type=UserPath())
@click.argument("texts", nargs=-1)
@click.option("-o", "--output", type=OutputFile(), help="The features to write (.npy).")
@click.option("--onnx", type=OutputFile(), help="The encoder itself, as a graph of ids to features.")
@json_option
def models_features(
    pipeline: Path, texts: tuple[str, ...], output: Path | None, onnx: Path | None, as_json: bool
) -> None:
    """Features of texts by a pipeline's own CLIP encoder, for `generate --features`; needs the transformers library."""
    from compress.core.settings import InputError
    from compress.recipe.early import check_pipeline

    if bool(texts) != (output is not None) or not (texts or onnx):
        raise InputError('give texts and -o FILE.npy, or --onnx FILE, or both; for example  "a cat" -o features.npy')
    check_pipeline(pipeline, "text_encoder", *(["tokenizer"] if texts else []))
    from compress.models import clip

    if output is not None:
        clip.write(clip.features(pipeline, texts), output)
    if onnx is not None:
        clip.write_graph(pipeline, onnx)
    if as_json:
        print_json({"output": output and str(output), "texts": len(texts), "onnx": onnx and str(onnx)})
        return
    if output is not None:
        print_line(f"{output}: features of {counted(len(texts), 'text')}")
    if onnx is not None:
        print_line(f"{onnx}: ids of {counted(clip.length(pipeline), 'token')} to features")

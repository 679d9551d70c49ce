"""The command `tokens`: pictures to a TokenSet, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.group import example, json_option
from compress.cli.paths import Share, UserPath
from compress.cli.reading import reading_of, reading_options
from compress.cli.saying import saying_options
from compress.cli.terminal import print_json, print_line
from export.runtime.counted import counted

if TYPE_CHECKING:
    from compress.data.reading import Fit
    from compress.models.candidate import Candidate
    from compress.models.tokenizer.model import Tokenizer


@click.command()
@saying_options
@example("compress tokens pictures/ -o tokens.npz --model digits")
@click.argument("images", type=UserPath())
@click.option("-o", "--output", type=UserPath(), required=True, help="The TokenSet to write (.npz).")
@click.option(
    "--model", "model_name", default="digits", show_default=True, help="A model or a tokenizer, shipped or your own."
)
@click.option("--labels", type=UserPath(), help="A CSV file with a picture and its class on each line.")
@click.option("--validation", type=Share(0, 0.9), default=0.05, show_default=True, help="Share set apart.")
@click.option("--held-out", type=Share(0, 0.9), default=0.2, show_default=True, help="Share set apart.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
@reading_options
@click.option("--decode", is_flag=True, help="The other way: pictures of a TokenSet, into the folder OUTPUT.")
@json_option
def tokens(
    images: Path, output: Path, model_name: str, labels: Path | None, validation: float, held_out: float, seed: int,
    fit: Fit | None, background: str | None, decode: bool, as_json: bool,
) -> None:  # fmt: skip
    """Turn a folder of pictures into a TokenSet with the tokenizer of a model, or a TokenSet into pictures.

    A picture's class is the name of its subfolder, or its number: one of the model's, or, with a tokenizer alone, a
    class of its own. Pictures right in the folder get no class.
    """
    from compress.cli.paths import OutputFile
    from compress.core.settings import InputError
    from compress.recipe.early import check_folder, check_model

    if not decode:
        if output.suffix != ".npz":
            raise InputError(f"--output: '{output}' must end in .npz")
        check_folder(images)
    check_model(model_name, "--model")
    from compress.data import tokens as data
    from compress.data.reading import Tally

    reading = reading_of(fit, background)
    if decode:
        if fit or background:
            raise InputError(f"{'--fit' if fit else '--background'}: goes with pictures, not with --decode")
        if labels is not None:
            raise InputError("--labels: goes with pictures, not with --decode")
        made = data.open_source(str(images), "tokens")
        count = data.to_folder(made, opened(model_name), output)
        if as_json:
            print_json({"output": str(output), "pictures": count})
            return
        print_line(f"{output}: {counted(count, 'picture')}")
        return
    OutputFile().convert(output, None, None)
    encoding, tally = data.Encoding.of(opened(model_name)), Tally()
    made = data.from_folder(images, encoding, validation, held_out, seed, labels, reading, tally)
    made.save(output)
    parts = {part: len(made.part(part)) for part in ("train", "validation", "held_out")}
    remarks = list(tally.words(reading, encoding.picture))
    if as_json:
        said = {"output": str(output), "pictures": len(made), "tokens_of_a_picture": made.tokens.shape[1]}
        print_json(said | {"parts": parts, "class_names": made.class_names, "remarks": remarks})
        return
    counts = ", ".join(f"{count} {part.replace('_', '-')}" for part, count in parts.items())
    named = f", {counted(len(made.class_names), 'class')} by name" if made.class_names else ""
    print_line(
        f"{output}: {counted(len(made), 'picture')} of {counted(made.tokens.shape[1], 'token')} ({counts}){named}"
    )
    for remark in remarks:
        print_line(remark)


def opened(name: str) -> Candidate | Tokenizer:
    """The model or tokenizer that a user names."""
    from compress.models import families
    from compress.models.candidate import is_engine, open_candidate

    path = families.locate(name, "--model")
    if is_engine(name) or not families.is_tokenizer(path):
        return open_candidate(name)
    return families.read_tokenizer(path, {}, "--model")

"""What `compress init` begins with: recipes of a checkpoint or of pictures, what was found, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.settings import InputError
from compress.drafting import folder

if TYPE_CHECKING:
    from compress.drafting.facts import Facts
    from compress.models.families import Source

EXAMPLE = "name one, for example  compress init emoji"


@dataclass(frozen=True)
class Beginning:
    """Recipes by the files that they are for, what was found and foreseen in lines, and the commands that come next."""

    recipes: dict[Path, str]
    found: tuple[str, ...]
    commands: tuple[str, ...]

    def write(self, *, force: bool = False) -> None:
        """Write the recipes; with `force` over files that are there.

        Raises:
            InputError: a file is there already.
        """
        from compress.core.durable import write_text

        for file in self.recipes:
            if file.exists() and not force:
                raise InputError(f"{file}: is there already; name another file with -o, or give --force")
        for file, text in self.recipes.items():
            write_text(file, text)


def begin(source: Source, path: Path, goal: str, tokens: str, output: Path | None) -> Beginning:
    """The recipe of a checkpoint, or the two that train on a folder of pictures at `path`; nothing is written.

    `output` is the file of the recipe, and of two recipes what their files' names begin with.

    Raises:
        InputError: there is neither a checkpoint nor pictures, or something that only goes with a checkpoint is given.
    """
    if folder.holds_pictures(path):
        for option, value in (("tokens", tokens), ("family", source.family), ("tokenizer", source.tokenizer)):
            if value:
                raise InputError(f"--{option}: goes with a checkpoint; {path} is a folder of pictures")
        return of_pictures(path, output)
    if path.is_dir() and source.checkpoint == "." and not folder.holds_checkpoint(path):
        raise InputError(f"{source.checkpoint}: holds neither a checkpoint nor pictures; {EXAMPLE}")
    from compress.drafting.facts import look

    return of_checkpoint(look(source), goal, tokens, output)


def of_checkpoint(facts: Facts, goal: str, tokens: str, output: Path | None) -> Beginning:
    """The recipe of a checkpoint."""
    from compress.drafting.cost import foresee, pace_here
    from compress.drafting.goals import draft
    from compress.drafting.tokens import pictures_for
    from compress.drafting.writing import recipe_text

    file = output or Path(f"{facts.name}-{goal}.yaml")
    made = draft(goal, facts)
    pictures = pictures_for(facts, tokens, made.calibration, made.held_out)
    cost = foresee(facts, made, pictures, pace_here(facts, made.bench["threads"]))
    first = [f"compress tokens {pictures.folder} -o {pictures.source} --model {file}"] if pictures.folder else []
    return Beginning(
        {file: recipe_text(facts, made, pictures, cost, file)},
        (f"{facts.path}: {facts.words()}", *cost.lines(), *([pictures.note] if pictures.note else [])),
        (
            *first,
            f"compress plan {file} --preflight   # rehearses it in seconds to minutes, and measures what it needs",
            f"compress run {file}",
            "compress schema recipe -o recipe.schema.json   # for editors, which complete and check the recipe by it",
        ),
    )


def of_pictures(given: Path, output: Path | None) -> Beginning:
    """The recipes that train a tokenizer and a transformer on pictures."""
    name = folder.name_of(given)
    stem = name if output is None else str(output).removesuffix(".yaml")
    files = [Path(f"{stem}-{part}.yaml") for part in folder.PARTS]
    made = folder.draft(given, name)
    texts = dict(zip(files, made.texts(*files), strict=True))
    return Beginning(texts, tuple(made.lines()), tuple(made.commands(*files)))

"""What the shell completes: names of passes, models, recipes and classes, beside the files that may stand there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
NAMED = ("engine", "reference", "candidate", "path")  # arguments that may name a model with class names


def completing(words: Callable[[], Iterable[str]], *, files: bool) -> Complete:
    """Complete some words, and files too."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(word) for word in words() if word.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")] if files else found

    return complete


def pass_names() -> list[str]:
    """Every pass."""
    from compress.recipe.early import pass_names as names

    return names()


def model_names() -> list[str]:
    """The shipped models and tokenizers."""
    from compress.models import zoo

    return zoo.folders()


def recipe_names() -> list[str]:
    """The shipped recipes."""
    from compress.recipe import shipped

    return shipped.names()


def class_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Classes of the model that the line names so far; of a list the part behind the last comma."""
    before, comma, last = incomplete.rpartition(",")
    given = [context.params.get(name) for name in NAMED]
    named = str(next((each for each in (*given, *context.args) if each), ""))  # what click did not parse is in args
    return [CompletionItem(f"{before}{comma}{name}") for name in classes_of(named) if name.startswith(last)]


def classes_of(model: str) -> list[str]:
    """What classes of a shipped model, a checkpoint or an engine are called; their numbers where they have no name."""
    from compress.models import zoo

    folder = zoo.ROOT / model if model in zoo.folders() else Path(model)
    for name in ("manifest.json", "config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            names = content.get("class_names") or content.get("shape", {}).get("class_names")
            number = (content.get("shape") or content.get("transformer") or {}).get("classes", 0)
            return [str(each) for each in names] if names else [str(each) for each in range(number)]
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return []


models = completing(model_names, files=True)
passes = completing(pass_names, files=False)
recipes = completing(recipe_names, files=True)

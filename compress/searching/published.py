"""What a search leaves in its folder: best.yaml with its engine, a recipe for each trial of the front, search.html."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from compress.core import durable
from compress.core.store import errors_said
from compress.measure import EngineMeasurement
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.running.pipeline import copy_engine
from compress.searching import page
from compress.searching.found import Found
from compress.searching.outcome import Outcome
from compress.searching.workshop import Workshop

BEST, ENGINES, FRONT, PAGE = "best.yaml", "engines", "front", "search.html"


def write(found: Found, shop: Workshop, output: Path) -> None:
    """Write what was found into the search's folder; at any moment best.yaml names an engine that is there.

    Under `working`: an engine is copied, or made again.
    """
    with errors_said(output):
        if found.best is not None:
            write_best(found.best, found, shop, output)
        write_front(found, shop, output)
        durable.write_text(output / PAGE, page.html(found, shop.goal))


def with_places(found: Found, output: Path) -> Found:
    """The same with where the best recipe, its engine and the page lie."""
    found = replace(found, page=str(output / PAGE))
    if found.best is None:
        return found
    return replace(found, recipe=str(output / BEST), engine=str(engine_folder(output, found.best)))


def engine_folder(output: Path, trial: Outcome) -> Path:
    """Where a trial's engine lies."""
    return output / ENGINES / f"trial-{trial.number}-{trial.artifact[:8]}"


def write_best(trial: Outcome, found: Found, shop: Workshop, output: Path) -> None:
    """Publish the engine, then the recipe that names it, then remove the engine before it."""
    folder, path = engine_folder(output, trial), output / BEST
    text = recipe_text(trial, found, shop, f"Its engine: {folder}")
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        publish(trial, shop, folder, path)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        durable.write_text(path, text)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def publish(trial: Outcome, shop: Workshop, folder: Path, recipe: Path) -> None:
    """Copy a trial's engine out of the store, where it is made again if it is gone."""
    run, entry = shop.engine_of(trial.picked)
    ((name, chain),) = run.plan.engines.items()
    torch_nodes = [node for node in run.plan.nodes if node.form is Form.TORCH]
    model = run.making.model(torch_nodes[-1])
    assert isinstance(model, ImageModel)
    engine = EngineMeasurement(
        name=name, form=chain[-1].form.value, parameters=model.parameters(), size_bytes=entry.size_bytes,
        size_share=entry.size_bytes / shop.reference_bytes, artifact=chain[-1].key, folder=str(folder),
    )  # fmt: skip
    copy_engine(entry.folder, folder, engine, run.provenance(chain))
    shop.store.note_user(recipe, [node.key for node in run.plan.nodes if node.source])


def write_front(found: Found, shop: Workshop, output: Path) -> None:
    """A recipe for each trial of the front, and no other."""
    folder = output / FRONT
    folder.mkdir(exist_ok=True)
    texts = {
        f"trial-{each.number}.yaml": recipe_text(each, found, shop, "`compress run` makes its engine from the store")
        for each in found.front
    }
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            durable.write_text(folder / name, text)
    for path in folder.glob("*.yaml"):
        if path.name not in texts:
            path.unlink(missing_ok=True)


def recipe_text(trial: Outcome, found: Found, shop: Workshop, note: str) -> str:
    """The recipe of a trial as YAML, with the budgets as its gate."""
    value: dict[str, Any] = {**shop.space.recipe(trial.picked)}
    if found.budgets:
        value["gate"] = dict(found.budgets)
    numbers = ", ".join(each.words(number) for each, number in zip(shop.goal.objectives, trial.values, strict=False))
    head = f"# Trial {trial.number} of {shop.space.path}: {numbers}.\n# {note}\n"
    return head + yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=120)

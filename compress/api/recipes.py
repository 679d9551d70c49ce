"""What is done with a recipe: written, planned, run, searched for and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.core.listener import Listener
    from compress.drafting.beginning import Beginning
    from compress.recipe.plan import Plan
    from compress.report import Report
    from compress.report.data.sensitivity import Sensitivity
    from compress.searching.found import Found

STORE = ".compress"  # the store that a program uses unless it names another, as the command line does


def init(
    path: str | Path,
    *,
    goal: str = "balanced",
    tokens: str | Path = "",
    family: str = "",
    tokenizer: str | Path = "",
    config: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
) -> Beginning:
    """A recipe that suits a checkpoint or shipped model, or two that train on a folder of pictures; writes nothing.

    `goal` is ``lossless``, ``balanced``, ``fastest``, ``smallest`` or ``tensorrt``. `family`, `tokenizer` and `config`
    are as of `load`, `tokens` is a TokenSet (.npz) or a folder of pictures, `output` the recipe's file.
    `Beginning.recipes` has texts by file, `found` what was found and what a run would cost, `commands` what comes next;
    `write()` writes the files.

    Raises:
        InputError: there is no such goal or checkpoint, or no recipe can be made of it.
    """
    from compress.core.settings import InputError, nearest
    from compress.core.user_files import user_path
    from compress.drafting.beginning import begin
    from compress.drafting.goals import GOALS
    from compress.models.candidate import source_of

    if goal not in GOALS:
        raise InputError(f"goal: {goal!r} is none; {nearest(goal, list(GOALS))}")
    source = source_of(str(path)).stating(family, str(tokenizer), config or {})
    return begin(
        source, user_path(path, "path"), goal, str(tokens), None if output is None else user_path(output, "output")
    )


def plan(recipe: str | Path, *, model: str = "", tokens: str = "") -> Plan:
    """Every artifact that a recipe (a file, or a shipped one's name) would make, with its key; makes nothing.

    A `model` or a source of `tokens` that is given takes the place of the recipe's.

    Raises:
        InputError: the recipe or one of its inputs is wrong.
    """
    from compress.recipe import plan as plans
    from compress.recipe import recipe as recipes
    from compress.recipe.shipped import located

    loaded = recipes.load(located(recipe), model, tokens)
    return plans.make_plan(loaded, plans.load_tokens(loaded))


def run(
    recipe: str | Path,
    output: str | Path | None = None,
    *,
    model: str = "",
    tokens: str = "",
    store: str | Path = STORE,
    listener: Listener | None = None,
    preflight: bool = True,
    on: str = "",
) -> Report:
    """Run a recipe, a file or a shipped one's name: compress, export, measure and judge, reusing what the store holds.

    Engines, pictures, report.json, report.md and report.html are written into `output`, ``runs/<recipe>`` by default.
    A `model` (a checkpoint, or a shipped one's name) or a source of `tokens` takes the place of the recipe's.
    A breached gate raises nothing: `Report.verdict` says so. `listener` is told what happens. With `on`
    ``torchrun:N`` the passes that can (``distill``) train in N processes of this machine; with ``local:N``, ``ray`` or
    ``ray://HOST:PORT`` workers make the engines side by side, each with ``bench.threads``.

    Raises:
        InputError: the recipe or an input is wrong, or a pass cannot do what it is asked.
    """
    from compress.core.listener import Silent
    from compress.core.store import Store
    from compress.recipe import recipe as recipes
    from compress.recipe.shipped import located
    from compress.running import pipeline
    from compress.workers.place import place_of_run

    processes, place = place_of_run(on)
    loaded = recipes.load(located(recipe), model, tokens)
    folder = run_folder(recipe, model) if output is None else Path(output)
    return pipeline.run(loaded, Store(store), folder, listener or Silent(), preflight, processes, place)


def run_folder(recipe: str | Path, model: str = "") -> Path:
    """Where a run is written unless it is said otherwise: ``runs/`` and the recipe's name, and the model's if given."""
    return Path("runs") / "-".join([Path(recipe).stem, *([Path(model).stem] if model else [])])


def sensitivity(
    recipe: str | Path,
    *,
    formats: Sequence[str] | None = None,
    prune: float = 0.25,
    pictures: int | None = None,
    model: str = "",
    tokens: str = "",
    store: str | Path = STORE,
    listener: Listener | None = None,
) -> Sensitivity:
    """What quantizing or pruning each layer of a recipe's untouched model alone adds to the KL, and what it saves.

    `formats` are names such as ``int8-static`` or ``int4-g128``; `prune` is the share of heads and of units that a
    layer loses, 0 for neither. Measured on `pictures` of the validation part, else of the training part; never on
    held-out ones. What the store holds is not measured again.

    Raises:
        InputError: the recipe, a format or an input is wrong.
    """
    from compress.core.listener import Silent
    from compress.core.store import Store
    from compress.recipe import recipe as recipes
    from compress.recipe.shipped import located
    from compress.running.sensitivity import FORMATS, Asked, command_of
    from compress.running.sensitivity import sensitivity as measured

    loaded = recipes.load(located(recipe), model, tokens)
    asked = Asked(FORMATS if formats is None else tuple(formats), prune, pictures or 0)
    return measured(loaded, Store(store), listener or Silent(), asked, command_of(recipe, asked, model, tokens))


def search(
    space: str | Path,
    *,
    budgets: Mapping[str, str | float] | None = None,
    minimize: str | Sequence[str] = "latency",
    seconds: float = 1800.0,
    trials: int | None = None,
    output: str | Path | None = None,
    store: str | Path = STORE,
    listener: Listener | None = None,
    on: str = "",
) -> Found:
    """Search a space of recipes (a file, or a shipped one's name) for the best one under budgets.

    `budgets` are limits by any key of a gate, as ``{"nll_drift": "1%", "size": "8MB"}``; `minimize` names what is made
    small, the first of several decides what is best. No trial begins once trials took `seconds` or there are so many
    `trials`, those of earlier calls included; the same call goes on where it was. Everything is written into `output`,
    ``searches/<space>`` by default. The result has the `best` trial with its `recipe` (a file for `run`) and `engine`
    (a folder for `load_engine`), the `front`, and all `trials`. That no trial keeps every budget raises nothing: `best`
    is None, and `nearest` says what it `lacks`. With `on` ``local:N``, ``ray`` or ``ray://HOST:PORT`` workers try
    side by side, each with ``bench.threads``. At the end the trials that could be fastest are timed beside each other,
    which decides between them (`compared`).

    Raises:
        InputError: the space, a limit or an input is wrong, Optuna is missing, a disk is full, or no worker works.
    """
    from compress.core.listener import Silent
    from compress.core.settings import InputError, shown
    from compress.recipe.shipped import located_space
    from compress.searching.asked import asked
    from compress.workers.place import place_of

    if not seconds > 0:
        raise InputError(f"seconds: {shown(seconds)} is not above 0")
    if trials is not None and trials < 1:
        raise InputError(f"trials: {shown(trials)} is not 1 or more")
    place = place_of(on) if on else None
    path, names = located_space(space), [minimize] if isinstance(minimize, str) else minimize
    wish = asked(path, {name: str(limit) for name, limit in (budgets or {}).items()}, names)
    from compress.core.store import Store
    from compress.running.meeting import check_store

    opened = Store(store)
    if place is not None:  # said before anything heavy is imported
        try:
            check_store(place, opened.prepare())
        except BaseException:
            opened.release()
            raise
    from compress.searching import published
    from compress.searching.search import search as run

    folder = Path("searches") / path.stem if output is None else Path(output)
    found = run(
        wish.space, wish.goal(), opened, folder, listener or Silent(), seconds=seconds, most_trials=trials,
        write=published.write, place=place,
    )  # fmt: skip
    return published.with_places(found, folder)


def train(recipe: str | Path, output: str | Path, *, listener: Listener | None = None, on: str = "") -> dict[str, Any]:
    """Train a transformer or an image tokenizer from a recipe into a folder; an interrupted training goes on.

    Returns what it reached (held-out NLL, or PSNR and the share of codes used), as in the folder's training.json.
    With `on` ``torchrun:N`` it trains in N processes of this machine. Where torchrun started processes, each of them
    calls this, and the first one reports and writes.

    Raises:
        InputError: the recipe or an input is wrong.
        SaidElsewhereError: another of torchrun's processes says so.
    """
    from functools import partial

    from compress.core.launched import launch
    from compress.core.listener import Silent
    from compress.core.strict_yaml import read_yaml
    from compress.recipe.shipped import check_verb, located
    from compress.workers.place import processes_of

    def checked() -> Path:
        path = located(recipe)
        check_verb(read_yaml(path), path, "train")
        return path

    listener, folder, processes = listener or Silent(), Path(output), processes_of(on)
    if (started := launch()) is None:
        path = checked()
    from compress.training import recipe as recipes
    from compress.training.processes import train_together
    from compress.training.world import ALONE, join_torchrun

    if started is not None:
        with join_torchrun(started) as world:
            with world.agreed():
                loaded = recipes.load(checked())
            with (listener if world.first else Silent()).work(f"train {loaded.name}") as progress:
                return recipes.train(loaded, folder, world, progress)
    loaded = recipes.load(path)
    with listener.work(f"train {loaded.name}") as progress:
        if processes > 1:
            return train_together(partial(recipes.train, loaded, folder), processes, progress, listener.say)
        return recipes.train(loaded, folder, ALONE, progress)

"""What `import compress` offers to Python programs; the command line is a thin layer over the same functions.

Letters: N pictures, T tokens of a picture, H x W x C pixels.

Nothing heavy is imported before a function needs it, so `import compress` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calibration.tokens import TokenSet
    from compress.applications.staying import Where
    from compress.bulk.generate import Drawn
    from compress.core.listener import Listener
    from compress.drafting.beginning import Beginning
    from compress.models.adopted import AdoptedModel
    from compress.models.artifact import Model
    from compress.models.candidate import Candidate
    from compress.models.image_model import ImageModel
    from compress.passes import Pass
    from compress.recipe.gates import Gate
    from compress.recipe.plan import Plan
    from compress.report import Report
    from compress.report.data.sensitivity import Sensitivity
    from compress.searching.search import Found
    from compress.verifying.bench import BenchRow
    from compress.verifying.bisect import Bisection
    from compress.verifying.comparison import Comparison
    from export.runtime.engine import Engine
    from export.runtime.options import Sampling

STORE = ".compress"  # the store that a program uses unless it names another, as the command line does


def load(
    checkpoint: str | Path,
    *,
    family: str = "",
    tokenizer: str | Path = "",
    config: Mapping[str, Any] | None = None,
    threads: int = 0,
) -> ImageModel | AdoptedModel:
    """The model in a checkpoint, of a shipped name such as ``digits``, or of a recipe's `model`.

    `family` names the checkpoint's format where it is not to be recognised, `tokenizer` the image tokenizer's weights,
    `config` what the files do not say. A decoder that is an ONNX graph runs on `threads` threads, 0 for all cores.

    Raises:
        InputError: it cannot be read; one line says where, what and what would be right.
    """
    from compress.models.candidate import load_model, source_of

    source = source_of(str(checkpoint)).stating(family, str(tokenizer), config or {})
    return load_model(source, str(checkpoint), threads)


def load_engine(
    folder: str | Path,
    *,
    threads: int = 0,
    device: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    require_plan: bool = False,
) -> Engine:
    """The engine in a folder, every file checked against its hash; `threads` 0 uses all cores.

    ONNX Runtime runs it on `device`: ``cpu``, ``cuda``, ``tensorrt-rtx``, ``directml`` or ``webgpu``, with these
    options of its execution provider. None: a plan of TensorRT where this machine runs one, else the CPU, with a
    warning. `require_plan` refuses that: an engine for TensorRT then runs its plan.

    Raises:
        InputError: the folder is damaged or no engine, or the device, or the required plan, does not run here.
    """
    from compress.models.candidate import open_engine

    return open_engine(Path(folder), threads, device, provider_options, require_plan=require_plan)


def load_tokens(source: str | Path) -> TokenSet:
    """The TokenSet in a file (.npz), or the shipped one called ``digits``, ``photos`` or ``emoji``.

    Raises:
        InputError: there is none.
    """
    from compress.data.tokens import open_source

    return open_source(str(source), "tokens")


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


def apply(
    model: ImageModel | AdoptedModel | Model,
    passes: Pass[Any, Any] | Sequence[Pass[Any, Any]],
    tokens: TokenSet,
    *,
    calibration: int = 128,
    seed: int = 0,
    report: Callable[[int, int, dict[str, float]], None] = lambda step, steps, values: None,
) -> Any:
    """The model that passes make of a model, one after the other; the model itself is left as it was.

    `tokens` are the pictures that passes calibrate on (at most the first `calibration` of its training part) and train
    with.
    The result is an `ImageModel` behind PyTorch passes, an `OnnxModel` behind ``export``; ``save(folder)`` writes
    either. Nothing is stored, so nothing is reused; `run` does that.

    Raises:
        InputError: a pass cannot do what it is asked, or takes another form of model, or the tokens do not fit.
    """
    import tempfile

    from compress.core.settings import InputError
    from compress.data.tokens import check_fits
    from compress.models.artifact import Form
    from compress.models.image_model import ImageModel
    from compress.passes import Context, Pass

    chain = [passes] if isinstance(passes, Pass) else list(passes)
    form = Form.TORCH if isinstance(model, ImageModel) else Form.ONNX
    for each in chain:
        if each.accepts is not form:
            raise InputError(f"{type(each).__name__}: takes a model in {each.accepts.value} form, not in {form.value}")
        form = each.returns
    if isinstance(model, ImageModel):
        check_fits(tokens, model, "tokens")
    calibration = min(calibration, len(tokens.part("train")))
    made: Any = getattr(model, "model", model)  # an adopted model stands for its graph
    with tempfile.TemporaryDirectory(prefix="compress-") as room:
        for number, each in enumerate(chain):
            workspace = Path(room) / str(number)
            workspace.mkdir()
            context = Context(model, tokens, calibration, seed, workspace, report)  # type: ignore[arg-type]
            made = each.run(made, context).model
    return made


def verify(
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    gates: Gate | Mapping[str, Any] | str | Path | None = None,
    *,
    tokens: str | Path = "digits",
    held_out: int | None = None,
    than: str | Path | Candidate | None = None,
    threads: int = 0,
    samples: int | None = None,
    quick: bool = False,
    on: str = "",
    listener: Listener | None = None,
) -> Comparison:
    """How far a candidate's outputs drift from a reference's, on held-out pictures.

    Each is a name, a checkpoint, an engine folder, or what `load` and `load_engine` gave. `tokens` is a source of
    pictures, or ``drawn`` for pictures that the reference draws. `gates` are limits, ``exact`` or ``lossy``, or a file
    of limits. `Comparison.verdict` says whether they hold.
    `samples` are pictures that both draw with the same noise, 32 by default. `quick` scores 32 pictures and draws 4,
    where the numbers do not say otherwise: everything is looked at, with wide intervals.
    With `on` (``local:N``, ``ray``, ``ray://HOST:PORT``) workers draw and score, each with so many `threads`; models
    are then given by name or folder. The result is that of one process with as many threads, bit for bit.

    Raises:
        InputError: one cannot be opened, tokens do not fit, a gate limits what is not measured, or workers failed.
    """
    from compress.recipe.gates import Gate, read_gate
    from compress.verifying.comparison import QUICK_COUPLED, QUICK_PICTURES, compare
    from compress.workers.place import place_of

    place = place_of(on) if on else None
    if quick:
        held_out, samples = held_out or QUICK_PICTURES, samples or QUICK_COUPLED
    if isinstance(gates, (str, Path)):
        from compress.core.strict_yaml import read_yaml
        from compress.recipe.shipped import located_gates

        file = located_gates(gates)
        gates = read_gate(read_yaml(file), f"{file}:")
    limits = gates if gates is None or isinstance(gates, Gate) else read_gate(dict(gates), "gates")
    return compare(
        reference,
        candidate,
        limits,
        str(tokens),
        held_out,
        threads,
        than,
        samples=samples,
        place=place,
        listener=listener,
    )


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


def bench(
    engines: Sequence[str | Path | Candidate], *, batch: Sequence[int] = (1, 8), repeats: int = 20, threads: int = 0
) -> list[BenchRow]:
    """Time engines (or models in PyTorch) interleaved in this process; the first is what speedups are against.

    `batch` are the numbers of pictures drawn at once, `repeats` the interleaved rounds, at least 6.

    Raises:
        InputError: one cannot be opened, or a batch does not fit into memory.
    """
    from compress.verifying.bench import bench as timed

    return timed(engines, batch, repeats, threads)


def bisect(
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    *,
    tokens: str | Path = "digits",
    pictures: int = 8,
    threads: int = 0,
) -> Bisection:
    """The first place whose output departs from the reference's, and inside a layer the first operator.

    Looked at are every class and token at the embedding, each layer, the last norm and the head, the cache, the
    sampler, the image decoder, the single file and the image encoder. Pictures are taken of each class in turn. Compare
    a quantized engine with a sound one of the same form: rounding alone departs from fp32 in the first layer.

    Raises:
        InputError: one cannot be opened, or they cannot be compared.
    """
    from compress.models.candidate import name_of, open_candidate
    from compress.verifying.bisect import bisect as found
    from compress.verifying.comparison import check_alike, given_of

    theirs, own = open_candidate(reference, threads), open_candidate(candidate, threads)
    names = name_of(reference), name_of(candidate)
    check_alike(own, names[1], theirs, names[0])
    given = given_of(theirs, str(tokens), pictures, 0, threads, each_class=True)
    return found(theirs, own, names, given.examples)


def generate(
    model: str | Path | Candidate,
    labels: Sequence[int | str] | NDArray[np.int64],
    *,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) of these classes (N,), drawn with an engine, or a checkpoint in PyTorch.

    Settings of sampling are those of `compress generate` (`cfg_scale`, `temperature`, `top_k`, ...); what is left out
    is the model's own, and what it would ignore is refused. A model of texts takes `features` (N, length, width) and 0
    for each label. `batch` pictures are drawn at once, 0 for as many as memory holds.

    Raises:
        InputError: the model cannot be opened, or does not draw what is asked for.
    """
    from compress.core.settings import InputError
    from compress.models.candidate import open_candidate
    from export.runtime.throughput import draw_pictures

    drawer = open_candidate(model, threads)
    try:
        return draw_pictures(drawer, labels, seed, features=features, batch=batch, **sampling)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def draw_shards(
    engine: str | Path,
    output: str | Path,
    labels: Sequence[int | str] | NDArray[np.int64] | None = None,
    *,
    count: int = 0,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    on: str = "local:1",
    format: Literal["webdataset", "png"] = "webdataset",
    shard: int = 0,
    batch: int = 0,
    threads: int = 1,
    device: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    require_plan: bool = False,
    listener: Listener | None = None,
    **sampling: Unpack[Sampling],
) -> Drawn:
    """Draw many pictures with an engine's folder into shards in `output`; those that it holds already stay.

    Picture i has label i of `labels` (n,), numbers or names, or row i of `features` (n, length, width), which are gone
    through again until there are `count`. Its bytes depend on the engine, the settings here and i, not on the workers
    of `on` (``local:N``, ``ray``, ``ray://HOST:PORT``) or the size of a `shard`, a multiple of `batch`. Each worker has
    so many `threads`; the engine is opened as `load_engine` says. 0 stands for the usual number.

    Raises:
        InputError: something cannot be opened or drawn, the folder holds something else, or shards failed twice.
    """
    from compress.bulk import generate as bulk
    from compress.bulk.drawing import Opening
    from compress.core.listener import Silent
    from compress.workers.place import place_of

    opening = Opening(threads, device, provider_options, require_plan)
    wish = bulk.Wish(labels, features, sampling, seed, count, format, shard, batch)
    return bulk.draw_shards(Path(engine), Path(output), wish, place_of(on), opening, listener or Silent())


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
) -> Found:
    """Search a space of recipes (a file, or a shipped one's name) for the best one under budgets.

    `budgets` are limits by any key of a gate, as ``{"nll_drift": "1%", "size": "8MB"}``; `minimize` names what is made
    small, the first of several decides what is best. No trial begins once trials took `seconds` or there are so many
    `trials`, those of earlier calls included; the same call goes on where it was. Everything is written into `output`,
    ``searches/<space>`` by default. The result has the `best` trial with its `recipe` (a file for `run`) and `engine`
    (a folder for `load_engine`), the `front`, and all `trials`. That no trial keeps every budget raises nothing: `best`
    is None, and `nearest` says what it `lacks`.

    Raises:
        InputError: the space, a limit or an input is wrong, Optuna is not installed, or the disk is full.
    """
    from compress.core.listener import Silent
    from compress.core.settings import InputError, shown
    from compress.recipe.shipped import located_space
    from compress.searching.asked import asked

    if not seconds > 0:
        raise InputError(f"seconds: {shown(seconds)} is not above 0")
    if trials is not None and trials < 1:
        raise InputError(f"trials: {shown(trials)} is not 1 or more")
    path, names = located_space(space), [minimize] if isinstance(minimize, str) else minimize
    wish = asked(path, {name: str(limit) for name, limit in (budgets or {}).items()}, names)
    from compress.core.store import Store
    from compress.searching import published
    from compress.searching.search import search as run

    folder = Path("searches") / path.stem if output is None else Path(output)
    found = run(
        wish.space, wish.goal(), Store(store), folder, listener or Silent(), seconds=seconds, most_trials=trials,
        write=published.write,
    )  # fmt: skip
    return published.with_places(found, folder)


def vary(
    model: str | Path | Candidate,
    picture: str | Path | NDArray[np.uint8],
    *,
    keep: float = 0.5,
    where: Where | None = None,
    label: int | str | Sequence[int | str] | None = None,
    count: int = 1,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    blend: int | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Variations (N, H, W, C) of a picture: a share `keep` of its tokens stays, the rest is drawn anew.

    `picture` is a file, or pixels (h, w, 1 or 3), and is cropped and scaled to the model's size. `where` says which
    tokens stay: the ``first`` of the drawing, some ``spread`` over the picture (the default but of next-scale models),
    or ``random`` ones by the seed. What is drawn is of the classes of `label`, as `generate` takes them and with commas
    between names in a text, `count` pictures of each; None draws unconditionally. A model of texts takes `features`
    (n, length, width) instead, `count` pictures of each. The model's decoder draws all of a picture; with `blend` the
    pixels of tokens that stay are pasted back unchanged and fade out over so many pixels. The rest is as of `generate`.

    Raises:
        InputError: the picture cannot be read or become tokens, or the model does not draw what is asked for.
    """
    from compress.applications.asked import picture_of, wish_of
    from compress.applications.vary import vary as drawn
    from compress.models.candidate import open_candidate

    drawer = open_candidate(model, threads)
    wish = wish_of(drawer, label, count, features, seed, batch, sampling)
    return drawn(drawer, picture_of(picture), wish, keep, where, blend)


def outpaint(
    model: str | Path | Candidate,
    picture: str | Path | NDArray[np.uint8],
    extend: Mapping[str, float],
    *,
    overlap: float = 0.5,
    own_size: bool = False,
    label: int | str | Sequence[int | str] | None = None,
    count: int = 1,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    blend: int | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) that hold a picture and go on beyond its edges, window by window.

    `extend` has shares of the picture's width or height: ``{"right": 0.5}``, of ``left``, ``right``, ``top`` and
    ``bottom``. A model that draws token by token continues right and bottom alone. The picture is scaled so that its
    shorter side is the model's, unless it keeps its `own_size`; its pixels then stay, byte for byte. Neighbouring
    windows share `overlap` of a side; drawn pixels are brought to the given ones over `blend` pixels, by default half
    of a token's side. The rest is as of `vary`.

    Raises:
        InputError: as of `vary`, or a side is none or cannot be continued, or the result is too small or too large.
    """
    from compress.applications.asked import picture_of, wish_of
    from compress.applications.outpaint import outpaint as drawn
    from compress.models.candidate import open_candidate

    drawer = open_candidate(model, threads)
    wish = wish_of(drawer, label, count, features, seed, batch, sampling)
    return drawn(drawer, picture_of(picture), wish, extend, overlap, blend, own_size=own_size)[0]


def upscale(
    model: str | Path | Candidate,
    picture: str | Path | NDArray[np.uint8],
    factor: int = 2,
    *,
    keep: float | None = None,
    scales: int | None = None,
    free: bool = False,
    overlap: float = 0.5,
    label: int | str | Sequence[int | str] | None = None,
    count: int = 1,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    blend: int | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) of `factor` times a picture's sides, whose detail the model draws, window by window.

    A next-scale model keeps the picture's `scales` coarsest scales (by default those that it has pixels for), a masked
    model a share `keep` of the enlarged picture's tokens (0.5), spread over it; one that draws token by token cannot.
    Made small again the result is the picture, but for rounding, unless it is `free`. The rest is as of `outpaint`.

    Raises:
        InputError: as of `vary`, or the model has no such setting, or the result is too small or too large.
    """
    from compress.applications.asked import picture_of, wish_of
    from compress.applications.upscale import upscale as drawn
    from compress.models.candidate import open_candidate

    drawer = open_candidate(model, threads)
    wish = wish_of(drawer, label, count, features, seed, batch, sampling)
    image = picture_of(picture)
    return drawn(drawer, image, wish, factor, keep, scales, overlap, blend, free=free)[0]

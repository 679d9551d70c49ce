"""A recipe: YAML in, a fully checked chain of passes and engines out, before a weight is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.core.settings import (
    MOST_BATCH,
    MOST_PICTURES,
    MOST_REPEATS,
    MOST_SEED,
    MOST_THREADS,
    InputError,
    parse,
    plain,
    setting,
    shown,
)
from compress.core.strict_yaml import read_yaml
from compress.core.user_files import user_path
from compress.measure.pictures.classify import DIGITS, ClassAccuracy
from compress.measure.statistics import FEWEST_VALUES
from compress.models import families
from compress.models.artifact import Form
from compress.models.families import Source
from compress.passes import Pass, find
from compress.recipe.gates import Gate, read_gate
from compress.recipe.shipped import check_verb
from export.runtime.manifest import Cpu

LONGEST_NAME = 64  # letters of an engine's name; file systems take 255 bytes
ENGINE_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}")
RESERVED = re.compile("con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)


@dataclass(frozen=True)
class TokenSource:
    """Which pictures to calibrate, train and measure on."""

    source: str = setting("digits", doc="'digits', or a TokenSet (.npz) that `compress tokens` wrote")
    calibration: int = setting(256, doc="training pictures that passes calibrate on", low=1, high=MOST_PICTURES)
    held_out: int = setting(297, doc="held-out pictures that everything is measured on", low=2, high=MOST_PICTURES)


@dataclass(frozen=True)
class Bench:
    """How speed is measured."""

    batch: tuple[int, ...] = setting(
        (1, 8), doc="pictures drawn at once, one row of results each", low=1, high=MOST_BATCH, fewest=1
    )
    threads: int = setting(2, doc="threads of the runtime and of PyTorch", low=1, high=MOST_THREADS)
    repeats: int = setting(20, doc="interleaved rounds", low=FEWEST_VALUES, high=MOST_REPEATS)
    inception: str = setting("", doc="weights of InceptionV3 (.pth of torch-fidelity), for FID; none: other features")
    samples: int = setting(300, doc="pictures drawn for class accuracy", low=10, high=MOST_PICTURES)


@dataclass(frozen=True)
class Step:
    """One pass of a chain, with the gate that judges what it made."""

    name: str
    setting: Pass[Any, Any]
    gate: Gate | None


@dataclass(frozen=True)
class EngineChain:
    """The passes that turn the trunk's last model into one engine."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Recipe:
    """A whole run: where from, through which passes, into which engines, judged by which gate."""

    path: Path
    model: Source
    tokens: TokenSource
    bench: Bench
    seed: int
    steps: tuple[Step, ...]
    engines: tuple[EngineChain, ...]
    gate: Gate | None
    form: Form = Form.TORCH  # of the untouched model
    cpu: Cpu = "any"
    instead: Mapping[str, str] = field(default_factory=dict)  # what was given in place of what the file says

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def described(self) -> dict[str, Any]:
        """The recipe with every default filled in, as JSON knows it."""
        return {
            "name": self.name,
            "model": plain(self.model),
            "tokens": plain(self.tokens),
            "bench": plain(self.bench),
            "seed": self.seed,
            "cpu": self.cpu,
            "passes": [describe(step) for step in self.steps],
            "engines": {engine.name: [describe(step) for step in engine.steps] for engine in self.engines},
            "gate": plain(self.gate),
        }


def describe(step: Step) -> dict[str, Any]:
    """One step as JSON knows it."""
    return {step.name: plain(step.setting), **({"gate": plain(step.gate)} if step.gate else {})}


@dataclass(frozen=True)
class Layout:
    """The top level of a recipe, before its chains are read."""

    model: Source = setting(doc="the checkpoint")
    tokens: TokenSource = setting(TokenSource(), doc="the pictures")
    bench: Bench = setting(Bench(), doc="how speed is measured")
    seed: int = setting(0, doc="seed of everything random", low=0, high=MOST_SEED)
    cpu: Cpu = setting("any", doc="processors that engines are right on: any, or, on x86, only those with VNNI")
    passes: tuple[Any, ...] = setting((), doc="the trunk: passes from torch to torch")
    engines: dict[str, Any] = setting(None, doc="named chains that end in an engine")
    gate: Any = setting(None, doc="judges every engine")


def load(path: Path, model: str = "", tokens: str = "") -> Recipe:
    """Read a recipe and check all of it: keys, types, ranges, names of passes, and that the forms of each chain fit.

    A `model` or a source of `tokens` that is given takes the place of the recipe's.

    Raises:
        InputError: anything is wrong; file, place, value, and what would be right.
    """
    return of_value(read_yaml(path), path, model, tokens)


def of_value(value: Any, path: Path, model: str = "", tokens: str = "") -> Recipe:
    """The recipe that the content of a YAML file says, checked as `load` does; `path` names the file in messages."""
    check_verb(value, path, "run")
    layout = parse(Layout, value, f"{path}:")
    if model:
        layout = replace(layout, model=Source(model))
    if tokens:
        layout = replace(layout, tokens=replace(layout.tokens, source=tokens))
    gate = read_gate(value["gate"], f"{path}: gate") if "gate" in value else None
    families.checked_path(layout.model, f"{path}: model")
    if not layout.engines:
        raise InputError(
            f"{path}: 'engines' names no engine; for example  engines: {{cpu: [export: {{target: onnxruntime}}]}}"
        )
    form = form_of(layout.model, f"{path}: model")
    trunk = read_chain(layout.passes, f"{path}: passes")
    check_forms(trunk, form, f"{path}: passes", ends=(form,))
    engines = []
    check_names(layout.engines, f"{path}: engines")
    for name, items in layout.engines.items():
        where = f"{path}: engines.{name}"
        if not isinstance(items, list) or not items:
            raise InputError(f"{where}: {shown(items)} is not a list of passes")
        chain = read_chain(items, where)
        check_forms(chain, form, where, ends=(Form.ONNX, Form.ENGINE))
        engines.append(EngineChain(name, deployed(chain, layout, targets_of(chain))))
    targets = frozenset().union(*(targets_of(engine.steps) for engine in engines))
    trunk = deployed(trunk, layout, targets)
    recipe = Recipe(
        *(path, layout.model, layout.tokens, layout.bench, layout.seed, trunk, tuple(engines), gate, form),
        cpu=layout.cpu,
        instead={name: each for name, each in (("model", model), ("tokens", tokens)) if each},
    )
    check_gates(recipe)
    if len({*layout.bench.batch}) < len(layout.bench.batch):
        raise InputError(f"{path}: bench.batch: {shown([*layout.bench.batch])} names a batch twice")
    if recipe.bench.inception:
        from compress.measure.pictures.features import check_inception

        where = f"{path}: bench.inception"
        check_inception(user_path(recipe.bench.inception, where), where)
    return recipe


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse names of engines that cannot be folders beside each other, on every system."""
    seen: dict[str, str] = {}
    for name in names:
        if not ENGINE_NAME.fullmatch(name):
            raise InputError(
                f"{where}: {shown(name)} cannot name a folder; use letters, digits, '-' and '_', at most {LONGEST_NAME}"
            )
        if RESERVED.fullmatch(name):
            raise InputError(f"{where}: {shown(name)} is a device on Windows and cannot name a folder there")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise InputError(f"{where}: {shown(other)} and {shown(name)} are one folder where case does not count")


def form_of(source: Source, where: str) -> Form:
    """What the model is made of before any pass; no weight is read."""
    return Form.ONNX if families.graph_family(source, families.checked_path(source, where)) else Form.TORCH


def read_chain(items: Any, where: str) -> tuple[Step, ...]:
    """The steps of one chain."""
    return tuple(read_step(item, f"{where}[{index}]") for index, item in enumerate(items))


def targets_of(chain: Iterable[Step]) -> frozenset[str]:
    """What the steps of a chain export for."""
    return frozenset(getattr(step.setting, "target", "") for step in chain if step.name == "export")


def deployed(chain: Iterable[Step], layout: Layout, targets: Collection[str]) -> tuple[Step, ...]:
    """The steps for engines of a recipe's processors and of these targets, timed as it says."""
    threads, batch = layout.bench.threads, min(layout.bench.batch)
    return tuple(
        replace(step, setting=step.setting.deployed_on(layout.cpu, targets).timed_as(threads, batch)) for step in chain
    )


def read_step(item: Any, where: str) -> Step:
    """One step: ``pass-name`` or ``{pass-name: settings}``, optionally with a ``gate`` beside the name."""
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: {shown(item)} is not a pass; write  - name: {{settings}}")
    passes = [key for key in item if key != "gate"]
    if len(passes) != 1:
        raise InputError(
            f"{where}: one pass and its gate make a step, but here stand {', '.join(map(str, item)) or 'none'}"
        )
    name = str(passes[0])
    made = parse(find(name, where), item[passes[0]], f"{where} {name}")
    gate = read_gate(item["gate"], f"{where} {name}.gate") if "gate" in item else None
    return Step(name, made, gate)


def check_forms(chain: tuple[Step, ...], form: Form, where: str, ends: tuple[Form, ...]) -> None:
    """Every pass must take the form that the one before it returns, and the chain must end in one of `ends`."""
    start = form
    for index, step in enumerate(chain):
        if step.setting.accepts is not form:
            hint = "put an export before it" if form is Form.TORCH else "move it before the export"
            if start is Form.ONNX:
                hint = "this model is an ONNX graph from the beginning, so passes that take onnx apply alone"
            raise InputError(
                f"{where}[{index}]: {step.name} takes {step.setting.accepts.value}, "
                f"but what reaches it is {form.value}; {hint}"
            )
        form = step.setting.returns
    if form not in ends:
        if Form.TORCH in ends:
            raise InputError(f"{where}: ends in {form.value}; passes that export belong under engines")
        raise InputError(
            f"{where}: ends in {form.value}; an engine needs an export, for example  export: {{target: onnxruntime}}"
        )


def check_gates(recipe: Recipe) -> None:
    """Refuse limits on what the run is not going to measure: they would be breached after all the work."""
    steps = [(f"passes[{index}] {step.name}.gate", step) for index, step in enumerate(recipe.steps)]
    steps += [
        (f"engines.{engine.name}[{index}] {step.name}.gate", step)
        for engine in recipe.engines
        for index, step in enumerate(engine.steps)
    ]
    for where, step in steps:
        for key in step.gate.limits if step.gate else ():
            place = f"{recipe.path}: {where}.{key.limit.key}"
            if key.stage == "graphs" and key.measure and step.setting.returns is Form.TORCH:
                raise InputError(
                    f"{place}: measured of {key.measure.words()}s, which {step.name} leaves alone; "
                    "put it at a step behind the export or into the recipe's gate"
                )
            if key.stage == "engines":
                raise InputError(f"{place}: measured of engines only; put it into the recipe's gate")
    gates = [(where, step.gate) for where, step in steps]
    for where, gate in [*gates, ("gate", recipe.gate)]:
        if gate is not None and gate.speedup_batch not in (None, *recipe.bench.batch):
            batches = ", ".join(map(str, recipe.bench.batch))
            raise InputError(
                f"{recipe.path}: {where}.speedup_batch: {gate.speedup_batch} is not timed; bench.batch has {batches}"
            )
    for key in recipe.gate.limits if recipe.gate else ():
        if key.measure is ClassAccuracy and recipe.tokens.source != DIGITS:
            raise InputError(f"{recipe.path}: gate.{key.limit.key}: only measured where tokens.source is '{DIGITS}'")

"""What a recipe would do: every artifact with its key, what the store already holds, and why the rest is not reused."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.tokens import Part, TokenSet
from compress.core.settings import InputError, digest, plain, shown
from compress.core.sources import source_hash
from compress.core.store import Store, file_hash
from compress.core.user_files import file_called
from compress.data.tokens import open_source
from compress.models import families
from compress.models.adopted import files_of
from compress.models.artifact import Form
from compress.models.checkpoints.checkpoint import PIPELINE
from compress.models.checkpoints.containers import PICKLES, SAFETENSORS
from compress.passes import Pass, distribution
from compress.recipe.gates import Gate
from compress.recipe.recipe import Recipe, Step

LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
GRAPH_LIBRARIES = ("optimum", "optimum-onnx", "transformers")
GRAPHS = (".onnx", ".onnx_data", ".data")  # with the weights that lie outside
READ = (".json", ".npy", SAFETENSORS, *PICKLES, *GRAPHS)  # what a checkpoint may consist of
ADOPTION = 2  # goes up when the same foreign graph becomes another decode graph


@dataclass(frozen=True)
class Node:
    """One artifact to be: its name in the report, the pass that makes it, its key, and the node it is made from.

    The reference is the node without a pass and without a source.
    """

    name: str
    key: str
    form: Form
    made_by: dict[str, Any]
    setting: Pass[Any, Any] | None = None
    source: Node | None = None
    gate: Gate | None = None


@dataclass(frozen=True)
class Plan:
    """The reference, the trunk behind it, and the chain of each engine behind the trunk."""

    reference: Node
    trunk: tuple[Node, ...]
    engines: dict[str, tuple[Node, ...]]

    @property
    def nodes(self) -> list[Node]:
        """Every node once, in the order in which they are made."""
        chains = [node for chain in self.engines.values() for node in chain]
        return [self.reference, *self.trunk, *chains]


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a pass computes."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def reference_node(source: families.Source, where: str, form: Form = Form.TORCH) -> Node:
    """The node of the untouched model, named by the content of its files and the code that reads them.

    A graph is made of them (exported, adopted) by libraries of certain versions, which are part of its name then.
    """
    path = families.locate(source.checkpoint, f"{where}.checkpoint")
    made_by: dict[str, Any] = {
        "pass": "reference",
        "family": source.family,
        "files": hashes(path),
        "code": [source_hash(module) for module in families.readers(source, path)],
    }
    if source.tokenizer:
        made_by["tokenizer"] = hashes(families.locate(source.tokenizer, f"{where}.tokenizer"))
    if source.config:
        made_by["config"] = plain(source.config)
        if named := {key: file_hash(path) for key, path in named_files(source.config)}:
            made_by["config files"] = named
    if form is Form.ONNX:
        made_by |= {"version": ADOPTION, "libraries": versions() | installed(GRAPH_LIBRARIES)}
        made_by["named"] = {path.name: file_hash(path) for path in files_of(source.config) if path.is_file()}
    return Node("reference", digest(made_by), form, made_by)


def named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The files that a model's config names, by its keys."""
    for key, value in config.items():
        if isinstance(value, str) and (path := file_called(value)) is not None:
            yield key, path


def hashes(path: Path) -> dict[str, str]:
    """The files that a checkpoint consists of, by their content.

    They are a folder's, a file and the config beside it, or all parts of the pipeline of which the path is one.
    """
    whole = next((each for each in (path, *path.parents[:2]) if (each / PIPELINE[0]).is_file()), None)
    if whole is not None:
        parts = (each.relative_to(whole) for each in whole.rglob("*") if each.is_file())
        return {
            each.as_posix(): file_hash(whole / each)
            for each in sorted(parts)
            if each.suffix in (*READ, ".txt") and not any(name.startswith(".") for name in each.parts)
        }
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: is no plain file; devices and pipes hold no checkpoint")
    beside = [each for each in (path if path.is_dir() else path.parent).iterdir() if each.is_file()]
    if not path.is_dir():  # weights outside an ONNX file are called like it: model.onnx_data, model.onnx.data
        beside = [each for each in beside if each.suffix == ".json" or each.name.startswith(path.name)]
    return {
        each.name: file_hash(each) for each in sorted(beside) if each.suffix in READ and each.name != "training.json"
    }


def next_node(source: Node, name: str, step: Step, seed: int, tokens: str) -> Node:
    """The node that a step makes of another; its key names everything that decides the result."""
    made_by: dict[str, Any] = {
        "pass": step.name,
        "version": step.setting.version,
        "settings": plain(step.setting),
        "input": source.key,
        "code": source_hash(type(step.setting).__module__),
        "libraries": versions() | distribution(step.name) | step.setting.environment(),
    }
    if step.setting.reads_tokens:
        made_by |= {"seed": seed, "tokens": tokens}
    return Node(name, digest(made_by), step.setting.returns, made_by, step.setting, source, step.gate)


def make_plan(recipe: Recipe, tokens: TokenSet) -> Plan:
    """Name every artifact of a recipe, without making any."""
    fingerprint = digest(tokens.fingerprint(), recipe.tokens.calibration)
    reference = reference_node(recipe.model, f"{recipe.path}: model", recipe.form)

    def chain(source: Node, steps: Sequence[Step], prefix: str) -> tuple[Node, ...]:
        nodes: list[Node] = []
        for step in steps:
            taken = sum(node.name.split("#")[0] == prefix + step.name for node in nodes)
            name = prefix + step.name + (f"#{taken + 1}" if taken else "")
            source = next_node(source, name, step, recipe.seed, fingerprint)
            nodes.append(source)
        return tuple(nodes)

    trunk = chain(reference, recipe.steps, "")
    last = trunk[-1] if trunk else reference
    return Plan(
        reference, trunk, {engine.name: chain(last, engine.steps, f"{engine.name}.") for engine in recipe.engines}
    )


def processor_note(recipe: Recipe) -> str | None:
    """What it means on this machine that a recipe's int8 engines are not for every processor, where they are not."""
    steps = [*recipe.steps, *(step for engine in recipe.engines for step in engine.steps)]
    if not any(step.setting.may_saturate for step in steps):
        return None
    from export.runtime.processor import products_saturate

    here = (
        "this one lacks it, so their products run in slower exact kernels here, and their speed says nothing of "
        "others; cpu: any with reduce_range: auto makes engines for every processor"
        if products_saturate()
        else "this one's products do not saturate"
    )
    cause = "cpu: vnni" if recipe.cpu == "vnni" else "reduce_range: false"
    return f"{cause}: int8 engines are for x86 processors with VNNI; {here}"


def explain(node: Node, store: Store, made: Sequence[dict[str, Any]]) -> str:
    """'reused', or why this artifact has to be made."""
    if node.source is None:
        return "the checkpoint itself"
    if store.contains(node.key):
        return "reused"
    if node.source.source is not None and not store.contains(node.source.key):
        return "its input is made first"
    for other in made:
        if other.get("pass") != node.made_by["pass"] or other.get("input") != node.made_by["input"]:
            continue
        for what in ("settings", "version", "seed", "tokens", "libraries", "code"):
            before, now = other.get(what), node.made_by.get(what)
            if before != now:
                return "its code changed" if what == "code" else f"{what} changed: {difference(before, now)}"
    return "not made yet"


def difference(before: Any, now: Any) -> str:
    """What changed between two values, key by key where they are mappings."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key} {shown(before.get(key))} -> {shown(now.get(key))}" for key in keys)
    return f"{str(before)[:12]} -> {str(now)[:12]}"


def load_tokens(recipe: Recipe) -> TokenSet:
    """The recipe's TokenSet.

    Raises:
        InputError: the source is unreadable, or holds fewer pictures than the recipe asks for.
    """
    where = f"{recipe.path}: tokens"
    tokens = open_source(recipe.tokens.source, f"{where}.source")
    wanted: dict[Part, int] = {"train": recipe.tokens.calibration, "held_out": recipe.tokens.held_out}
    for part, count in wanted.items():
        try:
            tokens.part(part, count)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
    return tokens

"""What can be said of a recipe, a model or tokens before anything heavy is imported; the full checks come after it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.core import registry
from compress.core.outlines import ROOT, UnclearError, outline
from compress.core.settings import InputError, nearest, parse, shown
from compress.core.user_files import user_path
from compress.models import zoo
from compress.recipe.shipped import check_verb

PASSES = ROOT / "compress" / "passes"


def check_recipe(content: Any, path: Path, model: str = "", tokens: str = "") -> None:
    """Refuse a recipe for another verb, without the model or tokens that it names, or with a wrong pass or setting.

    Raises:
        InputError: in the words of the full check.
    """
    check_verb(content, path, "run")
    if not isinstance(content, Mapping):
        return
    for name, given, check in (("model.checkpoint", model, check_model), ("tokens.source", tokens, check_tokens)):
        block = content.get(name.partition(".")[0])
        said = given or (block.get(name.partition(".")[2]) if isinstance(block, dict) else "")
        if isinstance(said, str) and said:
            check(said, f"{path}: {name}")
    known = pass_names()
    for where, name, settings in named_passes(content, path):
        if name not in known:
            raise InputError(f"{where}: no pass is called {shown(name)}; {nearest(name, known)}")
        if found := class_of(PASSES / f"{name.replace('-', '_')}.py"):
            check_settings(f"compress.passes.{name.replace('-', '_')}", found, settings, f"{where} {name}")


def check_training(content: Any, path: Path) -> None:
    """Refuse a recipe for another verb, or a wrong setting of a training.

    Raises:
        InputError: in the words of the full check.
    """
    check_verb(content, path, "train")
    if not isinstance(content, Mapping):
        return
    kind = ("tokenizer", "TokenizerRecipe") if {"tokenizer"} <= content.keys() and "model" not in content else (
        "transformer", "TrainRecipe")  # fmt: skip
    module = f"compress.training.{kind[0]}"
    try:
        blocks = {each.name: each.type for each in outline(module, kind[1]).__dataclass_fields__.values()}  # type: ignore[attr-defined]
    except UnclearError:
        return
    for name, value in content.items():
        if isinstance(value, Mapping) and hasattr(blocks.get(name), "__dataclass_fields__"):
            parse(blocks[name], value, f"{path}: {name}")


def check_settings(module: str, name: str, settings: Any, where: str) -> None:
    """Refuse settings that a class does not have, or that are of another type or out of range."""
    try:
        found = outline(module, name)
    except UnclearError:
        return
    parse(found, settings, where)


def named_passes(content: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, name and settings of each pass that is written as it should be."""
    chains: list[tuple[str, Any]] = [("passes", content.get("passes"))]
    if isinstance(engines := content.get("engines"), Mapping):
        chains += [(f"engines.{name}", chain) for name, chain in engines.items()]
    for chain, steps in chains:
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            item = {step: None} if isinstance(step, str) else step
            passes = [key for key in item if key != "gate"] if isinstance(item, Mapping) else []
            if len(passes) == 1:
                yield f"{path}: {chain}[{index}]", str(passes[0]), item[passes[0]]


def class_of(path: Path) -> str:
    """The class of a pass's file, which is called like it; empty for a pass of a third party."""
    if not path.is_file():
        return ""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = registry.dashed(path.stem)
    found = (each.name for each in tree.body if isinstance(each, ast.ClassDef))
    return next((name for name in found if registry.dashed(name) == own), "")


def check_model(name: str, where: str) -> None:
    """Refuse a model that is neither shipped nor a file or folder.

    Raises:
        InputError: in the words of `families.locate`.
    """
    if name not in zoo.folders() and not there(name, where):
        raise InputError(
            f"{where}: {shown(name)} is neither a file or folder nor a shipped model; "
            f"{nearest(name[:200], zoo.names())}"
        )


def check_tokens(source: str, where: str, *more: str) -> None:
    """Refuse tokens that are neither shipped nor a file; `more` are words that a verb takes beside them.

    Raises:
        InputError: in the words of `open_source`.
    """
    if source not in ("digits", "emoji", *more) and not there(source, where):
        raise InputError(f"{where}: {shown(source)} is neither a file nor 'digits' or 'emoji'")


def there(text: str, where: str) -> bool:
    """Whether a path exists, or cannot be asked for, which the full check explains."""
    try:
        return user_path(text, where).exists()
    except OSError:
        return True


def check_engine(folder: Path) -> None:
    """Refuse what is no engine folder.

    Raises:
        InputError: in the words of the runtime.
    """
    if not (folder / "manifest.json").exists():
        raise InputError(f"{folder}/manifest.json: there is no such file; an engine folder holds manifest.json")


def check_there(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        InputError: in the words of whatever reads graphs.
    """
    if not path.exists():
        raise InputError(f"{path}: cannot be read (No such file or directory)")


def check_folder(path: Path) -> None:
    """Refuse pictures whose folder is not there.

    Raises:
        InputError: in the words of whatever reads pictures.
    """
    if not path.is_dir():
        raise InputError(f"{path}: there is no such folder of pictures")


def check_pipeline(folder: Path, *parts: str) -> None:
    """Refuse what is no pipeline's folder with these parts, and a machine without the library that reads them.

    Raises:
        InputError: the library is not installed, or a folder is missing.
    """
    from compress.models.text_library import check_installed

    check_installed()
    for each in (folder, *(folder / part for part in parts)):
        if not each.is_dir():
            raise InputError(f"{each}: there is no such folder; a pipeline holds {' and '.join(parts)}")


def check_pass(name: str) -> None:
    """Refuse the name of no pass.

    Raises:
        InputError: in the words of `passes.find`.
    """
    known = pass_names()
    if name not in known:
        raise InputError(f"passes: no pass is called {shown(name)}; {nearest(name, known)}")


def check_capabilities(capabilities: Sequence[str]) -> None:
    """Refuse compute capabilities that nothing is built for.

    Raises:
        InputError: says which there are.
    """
    from export.building.capabilities import CAPABILITIES, unknown

    for each in capabilities:
        if each not in CAPABILITIES:
            raise InputError(f"--capability: {unknown(each)}")


def check_formats(names: Sequence[str], where: str) -> None:
    """Refuse names that are no number format's.

    Raises:
        InputError: in the words of `format_names.format_called`.
    """
    from export.graph.format_words import FLOAT, words_of

    for name in names:
        try:
            if name != FLOAT:
                words_of(name)
        except ValueError as error:
            raise InputError(f"{where}: {shown(name)} {error}") from error


def pass_names() -> list[str]:
    """Every pass, as `passes.names` has them."""
    return registry.names([str(PASSES)], "compress.passes")

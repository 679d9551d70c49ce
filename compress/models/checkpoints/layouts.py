"""Which files of a folder hold a checkpoint: the weights, in one file or several with their index, and config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.settings import InputError, shown
from compress.core.strict_json import read_json
from compress.models.checkpoints.containers import PICKLES, SAFETENSORS, Entry, entries

CONFIG = "config.json"
# What a folder may hold, in order of preference; a pattern with * is a sharded checkpoint's index.
LAYOUTS = (
    "model.safetensors",
    "*.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    *(f"checkpoint{suffix}" for suffix in (SAFETENSORS, *PICKLES)),
)


def weight_files(path: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """The index if the checkpoint is sharded, and its weights files.

    Raises:
        InputError: there is none, or a folder's files leave a choice.
    """
    if not path.is_dir():
        return None, (path,)
    for layout in LAYOUTS:
        matches = sorted(path.glob(layout))
        if len(matches) > 1:
            raise ambiguous(path, matches)
        if matches and layout.endswith(".index.json"):
            shards = sorted(set(read_index(matches[0]).values()))
            return matches[0], tuple(path / shard for shard in shards)
        if matches:
            return None, (matches[0],)
    files = sorted(each for each in path.iterdir() if each.suffix in (SAFETENSORS, *PICKLES) and each.is_file())
    if len(files) == 1:
        return None, (files[0],)
    if files:
        raise ambiguous(path, files)
    raise InputError(f"{path}: holds no weights; looked for files that end in {SAFETENSORS}, {', '.join(PICKLES)}")


def ambiguous(path: Path, files: list[Path]) -> InputError:
    """The complaint that a folder's files leave a choice."""
    return InputError(f"{path}: holds {', '.join(file.name for file in files)}; give the path of the one to read")


def read_index(index: Path) -> dict[str, str]:
    """Which file of a sharded checkpoint holds each tensor."""
    content = read_mapping(index)
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{index}: 'weight_map' is missing; it says which file holds each tensor")
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{index}: {shown(name)} is said to be in {shown(shard)}, which is no file beside it")
    return shards


def shard_entries(index: Path, weights: str | None) -> dict[str, Entry]:
    """The tensors of a sharded checkpoint, each in the file that the index says."""
    if weights is not None:
        raise InputError(f"{index}: holds no '{weights}'; a sharded checkpoint holds one set of weights")
    shards = read_index(index)
    opened: dict[str, dict[str, Entry]] = {}
    for shard in sorted(set(shards.values())):
        if not (index.parent / shard).is_file():
            raise InputError(f"{index.parent / shard}: this shard is missing; {index.name} lists it")
        opened[shard] = entries(index.parent / shard, wrapped=False)
    for name, shard in shards.items():
        if name not in opened[shard]:
            raise InputError(f"{index.parent / shard}: tensor '{name}' is missing; {index.name} says it is here")
    return {name: opened[shard][name] for name, shard in shards.items()}


def read_config(path: Path) -> dict[str, Any]:
    """config.json as it is; empty if there is none."""
    return read_mapping(path) if path.exists() else {}


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that is one mapping.

    Raises:
        InputError: it is something else, damaged, too large, or says a key twice.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not a mapping")
    return content

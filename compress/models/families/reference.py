"""The project's own checkpoint format: a folder with config.json and model.safetensors (or a plain .pt state dict).

It is also how a model of any family rests in the store: pruned widths are part of the config, quantized layers are
listed by name, and the weights of a tokenizer that has some lie in tokenizer.safetensors. Shipped models may share a
shipped tokenizer instead.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from compress.core.settings import InputError, convert, nearest, parse, plain, shown
from compress.core.strict_json import read_json
from compress.models import zoo
from compress.models.checkpoints.checkpoint import read_state, read_tensors
from compress.models.checkpoints.containers import PICKLES
from compress.models.checkpoints.family import Family
from compress.models.checkpoints.filling import fill
from compress.models.image_model import ImageModel
from compress.models.tokenizer import tokenizer_folder
from compress.models.tokenizer.model import Tokenizer, build
from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.embedding import EmbeddingQuantization, install_embedding, quantized_embedding
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import LinearQuantization, install, quantizations
from export.runtime.sampling import Sampler
from export.runtime.shape import check_class_names

FORMAT = 1
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.safetensors"
CONFIG = "config.json"


class Reference(Family):
    """The project's own format; what it does are functions, for the store uses them too."""


def save(model: ImageModel, folder: Path, *, half: bool = False) -> None:
    """Write the model into an existing folder, its floating weights as fp16 if `half`, else as they are.

    Scales of quantized layers stay fp32: fp16 would round small ones to nothing.
    """
    state = model.transformer.state_dict()
    if half:
        state = {name: to_half(value) if not name.endswith("_scale") else value for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
    weights = model.tokenizer.state()
    if weights:
        save_file(
            {name: (to_half(value) if half else value).contiguous() for name, value in weights.items()},
            folder / TOKENIZER,
        )
    config = {
        "format": FORMAT,
        "family": model.family,
        "name": model.name,
        "transformer": plain(model.transformer.config),
        "quantized": {name: plain(spec) for name, spec in quantizations(model.transformer).items()},
        "quantized_embedding": plain(quantized_embedding(model.transformer)),
        "tokenizer": model.tokenizer.describe(),
        "sampler": plain(model.sampler),
        **({"class_names": list(model.class_names)} if model.class_names else {}),
        **({"licence": model.licence} if model.licence else {}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def load(folder: Path) -> ImageModel:
    """Read such a folder; weights become fp32, integer and FP8 weights stay as they are.

    Raises:
        InputError: a file is missing or damaged, or does not hold what the config says.
    """
    config = read_config(folder / CONFIG)
    where = str(folder / CONFIG)
    transformer = on_meta(config, where)
    specs = {
        name: parse(LinearQuantization, spec, f"{where}: quantized.{name}")
        for name, spec in config.get("quantized", {}).items()
    }
    install(transformer, specs, f"{where}: quantized")
    if (table := config.get("quantized_embedding")) is not None:
        install_embedding(transformer, parse(EmbeddingQuantization, table, f"{where}: quantized_embedding"))
    weights = next((path for path in candidates(folder) if path.exists()), folder / WEIGHTS)
    fill(transformer, read_tensors(weights), weights)
    transformer.eval()
    return ImageModel(
        name=str(config.get("name", folder.name)),
        family=str(config.get("family", "reference")),
        transformer=transformer,
        tokenizer=read_tokenizer(config["tokenizer"], transformer.config, folder, f"{where}: tokenizer"),
        sampler=parse(Sampler, config["sampler"], f"{where}: sampler"),
        class_names=read_class_names(config, transformer.config, where),
        licence=convert(str, config.get("licence", ""), f"{where}: licence"),
    )


def read_class_names(config: dict[str, Any], architecture: TransformerConfig, where: str) -> tuple[str, ...]:
    """What the classes are called, where the config says it."""
    names = convert(tuple[str, ...], config.get("class_names", ()), f"{where}: class_names")
    try:
        check_class_names(names, architecture.classes)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return tuple(names)


def planned(folder: Path) -> TokenTransformer:
    """The transformer that a folder's config describes, on the meta device; no weight is read.

    Raises:
        InputError: the config is missing or damaged.
    """
    return on_meta(read_config(folder / CONFIG), str(folder / CONFIG))


def on_meta(config: dict[str, Any], where: str) -> TokenTransformer:
    """The transformer of a config, on the meta device."""
    parsed = parse(TransformerConfig, config["transformer"], f"{where}: transformer")
    try:
        with torch.device("meta"):
            return TokenTransformer(parsed)
    except (RuntimeError, ValueError, ArithmeticError, TypeError) as error:  # numbers that no tensor can have
        raise InputError(f"{where}: transformer: {' '.join(str(error).split())[:120]}") from error


def candidates(folder: Path) -> list[Path]:
    """The weight files a folder may have, in order of preference."""
    return [folder / WEIGHTS, *(folder / f"model{suffix}" for suffix in PICKLES)]


def read_tokenizer(value: dict[str, Any], config: TransformerConfig, folder: Path, where: str) -> Tokenizer:
    """The tokenizer of the transformer's tokens, with its weights where it has some."""
    if value.get("kind") == "shipped":
        tokenizer = shipped_tokenizer(value, where)
    else:
        if value.get("kind") == "pixels":
            value = {"grid": config.grid, **value}
        state = read_state(folder / TOKENIZER) if (folder / TOKENIZER).exists() else {}
        tokenizer = build(value, {name: to_compute(tensor) for name, tensor in state.items()}, where)
    found, wanted = (tokenizer.vocabulary, tokenizer.length), (config.vocabulary, config.length)
    if found != wanted:
        raise InputError(
            f"{where}: has {found[0]} tokens, {found[1]} for each picture; "
            f"the transformer has {wanted[0]} and {wanted[1]}"
        )
    return tokenizer


@dataclass(frozen=True)
class Shipped:
    """A shipped tokenizer that several shipped models share, by its name and the hash of its weights."""

    name: str
    sha256: str


def shipped_tokenizer(value: dict[str, Any], where: str) -> Tokenizer:
    """The shipped tokenizer that a shipped model's config names.

    Raises:
        InputError: there is none of that name, or its weights are others.
    """
    wanted = parse(Shipped, {name: each for name, each in value.items() if name != "kind"}, where)
    known = sorted(set(zoo.folders()) - set(zoo.names()))
    if wanted.name not in known:
        raise InputError(f"{where}.name: {shown(wanted.name)} is not shipped; {nearest(wanted.name, known)}")
    found = hashlib.sha256((zoo.ROOT / wanted.name / tokenizer_folder.WEIGHTS).read_bytes()).hexdigest()
    if found != wanted.sha256:
        raise InputError(f"{where}: the weights of {wanted.name} are other than {shown(wanted.sha256[:12])}")
    return tokenizer_folder.load(zoo.ROOT / wanted.name)


def to_half(value: torch.Tensor) -> torch.Tensor:
    """fp32 weights as fp16."""
    return value.half() if value.dtype == torch.float32 else value


def to_compute(value: torch.Tensor) -> torch.Tensor:
    """fp16 and bf16 weights as the fp32 that PyTorch computes in."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def read_config(path: Path) -> dict[str, Any]:
    """config.json, checked for its format and the keys that are needed."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file; a checkpoint folder holds {CONFIG} and {WEIGHTS}")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else config
        raise InputError(f"{path}: format is {shown(found)}; this version reads format {FORMAT}")
    for key in ("transformer", "tokenizer", "sampler"):
        if key not in config:
            raise InputError(f"{path}: '{key}' is missing")
    for key in ("transformer", "tokenizer", "sampler", "quantized"):
        if not isinstance(config.setdefault(key, {}), dict):
            raise InputError(f"{path}: {key}: {shown(config[key])} is not a mapping")
    return config

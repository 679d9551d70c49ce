"""What a checkpoint is: its family, config, parameters, memory, what can be pruned, and how large its engines would be.

Nothing is read but names and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.core.settings import InputError, plain, setting
from compress.models import families
from compress.models.adopted import picture_config
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import GraphFamily
from compress.models.families import reference
from compress.models.tokenizer import formats
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import LinearQuantization, parameter_count
from compress.passes.shared.format_names import weight_bytes
from compress.passes.shared.pruning import HEADS, UNITS

# What a parameter is for, by words of its name; the first that fits counts.
PARTS = {
    "stem and tail": (".stem.", ".tail.", ".merge.", ".divide."),
    "modulation": ("modulation", ".shared."),
    "embeddings": (".embedding.", ".position.", ".moment.", ".registers", ".latent."),
    "attention": (".attention.",),
    "texts": (".text.",),
    "feed-forward": (".ffn.",),
    "head": (".head",),
}
SHOWN = 200  # characters of a path in a message, where it is none
IDS = "input_ids"
ENGINE = "manifest.json"
GROUP = 32  # inputs that share a scale, where int4 sizes are predicted
INT8, INT4 = LinearQuantization("int8"), LinearQuantization("int4", group=GROUP)


@dataclass(frozen=True)
class Inspection:
    """What names and shapes say of a checkpoint."""

    path: str = setting(doc="the checkpoint")
    family: str = setting(doc="its format")
    kind: str = setting(doc="transformer or tokenizer")
    bytes_on_disk: int = setting(doc="of its tensors", low=0)
    parameters: int = setting(doc="weights of the transformer, or of the tokenizer", low=0)
    parts: dict[str, int] = field(default_factory=dict, metadata={"doc": "parameters by what they are for"})
    config: dict[str, Any] = field(default_factory=dict, metadata={"doc": "the architecture"})
    memory_bytes: dict[str, int] = field(default_factory=dict, metadata={"doc": "of the weights, by number format"})
    prunable: dict[str, Any] = field(default_factory=dict, metadata={"doc": "groups that pruning can remove"})
    engine_bytes: dict[str, int] = field(default_factory=dict, metadata={"doc": "decode graphs' predicted sizes"})
    notes: list[str] = field(default_factory=list, metadata={"doc": "what was chosen or assumed"})


def inspect(source: families.Source) -> Inspection:
    """Recognise a checkpoint and say what it is.

    Raises:
        InputError: it is of no known family; the nearest is named with the first name that does not fit.
    """
    path = families.checked_path(source, source.checkpoint[:SHOWN])
    if (path / ENGINE).is_file():
        raise InputError(
            f"{path}: is an engine folder, not a checkpoint; `compress bench`, `verify` and `generate` take it"
        )
    if source.family == families.OWN or (not source.family and families.is_own(path)):
        families.check_own(source, source.checkpoint)
        transformer = reference.planned(path)
        size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        return of_transformer(str(path), families.OWN, transformer, size)
    if graph := families.graph_family(source, path):
        picture_config({"grid": [1, 1], **source.config}, f"{source.checkpoint}: config")  # refuses what it is not
        return of_graph(source.checkpoint, graph, path)
    checkpoint = families.open_checkpoint(source, path)
    name = source.family or families.recognise(checkpoint)
    if name is None:
        return of_tokenizer(source, checkpoint)
    family = families.torch_family(name)
    transformer = families.plan(checkpoint, name)
    families.check_stated(source, family.keys, f"{source.checkpoint}: config", name)
    said = [*checkpoint.notes, *family.notes(checkpoint)]
    return of_transformer(source.checkpoint, name, transformer, checkpoint.bytes, said)


def of_graph(name: str, family: GraphFamily, path: Path) -> Inspection:
    """A decoder that is read as an ONNX graph: its size, and the config beside it."""
    count, size, config = family.size(path)
    plain_config = {key: value for key, value in config.items() if isinstance(value, (int, str, float))}
    return Inspection(name, family.name, "decoder", size, count, config=plain_config, memory_bytes=memory(count))


def of_tokenizer(source: families.Source, checkpoint: Checkpoint) -> Inspection:
    """An image tokenizer by its names and shapes."""
    path = source.checkpoint
    name = formats.recognise(checkpoint)
    if name is None:
        raise InputError(f"{path}: is of no known family; {families.nearest_family(checkpoint)}")
    families.check_stated(source, formats.keys_of(name), f"{path}: config", name)
    formats.read(checkpoint.planned(), checkpoint.config, path)
    count = sum(torch.Size(checkpoint.shape(each)).numel() for each in checkpoint)
    said = list(checkpoint.notes)
    return Inspection(path, name, "tokenizer", checkpoint.bytes, count, memory_bytes=memory(count), notes=said)


def of_transformer(
    path: str, family: str, transformer: TokenTransformer, size: int, notes: Sequence[str] = ()
) -> Inspection:
    """A transformer on the meta device."""
    config, total = transformer.config, parameter_count(transformer)
    return Inspection(
        path=path,
        family=family,
        kind="transformer",
        bytes_on_disk=size,
        parameters=total,
        parts=parts(transformer),
        config=plain(config),
        memory_bytes=memory(total),
        prunable={
            "layers": len(config.layers),
            "heads": [HEADS.count(layer) for layer in config.layers],
            "ffn_units": [UNITS.count(layer) for layer in config.layers],
        },
        engine_bytes=engine_bytes(transformer),
        notes=list(notes),
    )


def memory(parameters: int) -> dict[str, int]:
    """Bytes of as many weights in each float format."""
    return {"fp32": 4 * parameters, "fp16": 2 * parameters}


def parts(transformer: TokenTransformer) -> dict[str, int]:
    """Parameters by what they are for."""
    found = dict.fromkeys((*PARTS, "other"), 0)
    for name, parameter in transformer.named_parameters():
        found[part_of(name)] += parameter.numel()
    return {name: count for name, count in found.items() if count}


def part_of(name: str) -> str:
    """What a parameter is for, by the first words that its name holds."""
    return next((part for part, words in PARTS.items() if any(word in f".{name}" for word in words)), "other")


def engine_bytes(transformer: TokenTransformer) -> dict[str, int]:
    """Bytes of the decode graph's weights as `quantize` leaves them.

    The products of the blocks are quantized, the head is in int8 where it is not tied, the rest in fp32.
    """
    rest = int8 = int4 = 4 * parameter_count(transformer)
    if not transformer.config.tied_head:
        head = saved(transformer.head, INT8)
        int8, int4 = int8 - head, int4 - head
    for _, linear in transformer.linears():
        int8 -= saved(linear, INT8)
        int4 -= saved(linear, INT4)
    return {"fp32": rest, "int8": int8, f"int4, groups of {GROUP}": int4}


def saved(linear: nn.Linear, spec: LinearQuantization) -> int:
    """Bytes that a layer's weights take less in a format than in float."""
    size = linear.in_features, linear.out_features
    return weight_bytes(*size, None) - weight_bytes(*size, spec)

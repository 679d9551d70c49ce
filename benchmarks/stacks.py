"""The stacks that are compared: eager PyTorch and our own engines, each as something that draws tokens of pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress.core.settings import parse
from compress.measure.speed.memory import peak_mib
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder
from compress.models.transformer.blocks import KeyValue
from compress.passes import Context, PassError, find
from compress.passes.distill_decoder import DistillDecoder
from export.graph.weights import bytes_read
from export.runtime.engine import Engine
from export.runtime.manifest import DECODE
from export.runtime.sampling import Sampler

Steps = list[dict[str, dict[str, Any]]]
EXPORT: Steps = [{"export": {"target": "onnxruntime"}}]
FUSED: Steps = [*EXPORT, {"fuse": {}}]
HOISTED: Steps = [*EXPORT, {"hoist": {}}, {"fuse": {}}]  # of modulated models
SAMPLING: Steps = [{"engine": {}}]
CACHE: Steps = [{"quantize-cache": {}}]
DECODER: Steps = [{"decoder": {"quantize": "int8", "pictures": 4}}]


def weights(bits: str) -> Steps:
    """Weights and head in groups of 128, activations scaled as they come, the table of embeddings in int8."""
    numbers = {"weights": bits, "activations": "int8", "dynamic": True, "group": 128}
    return [{"quantize": {**numbers, "ranges": "absmax", "head": "same", "embedding": "int8"}}]


STATIC: Steps = [{"quantize": {"weights": "int8", "activations": "int8", "ranges": "absmax"}}]
# An engine is a chain of passes; add a line to compare another.
ENGINES: dict[str, Steps] = {
    "fp32 export": EXPORT,
    "fp32": FUSED + SAMPLING,
    "int8 static": STATIC + FUSED + SAMPLING,
    "int8 g128": weights("int8") + FUSED + SAMPLING,
    "int8 g128, int8 cache": weights("int8") + FUSED + CACHE + SAMPLING,
    "int4 g128, sampling outside": weights("int4") + FUSED,
    "int4 g128": weights("int4") + FUSED + SAMPLING,
    "int4 g128, int8 cache": weights("int4") + FUSED + CACHE + SAMPLING,
    "int4 g128, int8 cache, int8 decoder": weights("int4") + FUSED + CACHE + DECODER + SAMPLING,
    "fp32, hoisted": HOISTED + SAMPLING,
    "int8 static, hoisted": STATIC + HOISTED + SAMPLING,
    "int8 static, int8 decoder": STATIC + FUSED + DECODER + SAMPLING,
}
# Of a model that was distilled: one row a step for guided pictures, and a small image decoder.
ONE_ROW = "int4 g128, int8 cache, guidance inside, small int8 decoder"
ENGINES[ONE_ROW] = ENGINES["int4 g128, int8 cache, int8 decoder"]
EAGER = ("torch eager fp32", "torch eager bf16", "torch compile fp32")
COMPILED = "torch compile fp32"
CALIBRATION = 4  # pictures; ranges of random weights mean nothing, but static scales must be there


@dataclass(frozen=True)
class Stack:
    """One way to draw: `draw(rows)` makes the tokens of one call of so many rows of a step.

    `weight_bytes` are read for every token. `peak` measures the peak memory of a fresh process in MiB.
    """

    name: str
    draw: Callable[[int], object]
    weight_bytes: int
    file_mib: float
    peer: bool = False
    peak: Callable[[int], float | None] = field(default=lambda rows: None)
    picture: Callable[[], object] | None = None


def labels_of(model: ImageModel, rows: int) -> tuple[NDArray[np.int64], Sampler]:
    """Classes and sampler of a call of so many rows: half as many pictures with guidance; one without if it is one.

    Where guidance is inside the model, each row is a picture.
    """
    if model.sampler.guidance_inside:  # a row a picture
        return np.arange(rows, dtype=np.int64) % max(1, model.shape.classes), model.sampler
    guided = rows > 1 and model.sampler.guided
    count = rows // 2 if guided else rows
    sampler = model.sampler if guided else model.sampler.changed(cfg_scale=1.0)
    return np.arange(count, dtype=np.int64) % max(1, model.shape.classes), sampler


def own(name: str, model: ImageModel, room: Path, threads: int) -> Stack:
    """One of our engines, built from the model by its passes.

    Raises:
        PassError: a pass cannot do this with the model.
    """
    folder = room / name.replace(",", "").replace(" ", "-")
    model = one_row(model) if name == ONE_ROW else model
    made = passed(model, ENGINES[name], folder)
    engine = Engine.load(made, threads=threads)

    def draw(rows: int) -> object:
        labels, sampler = labels_of(model, rows)
        return engine.draw_tokens(labels, 0, sampler)

    size = sum(path.stat().st_size for path in made.glob("decode.onnx*"))
    return Stack(
        name=f"ours {name}",
        draw=draw,
        weight_bytes=bytes_read(ir.load(made / DECODE)),
        file_mib=size / 2**20,
        peak=lambda rows: peak_mib(made, batch=max(1, rows // 2), threads=threads),
        picture=lambda: engine.generate(np.zeros(1, dtype=np.int64)),
    )


def one_row(model: ImageModel) -> ImageModel:
    """A model of the shape that `distill: {guidance: absorb}` and `distill-decoder` make.

    Nothing is taught: the weights are random in any case, and times depend on shapes alone.

    Raises:
        PassError: its image decoder has no smaller form, or it draws without guidance.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, VqTokenizer) or not isinstance(tokenizer.autoencoder, VqAutoencoder):
        raise PassError("distill-decoder is for VQ decoders")
    if not model.sampler.guided:
        raise PassError("the shape is drawn without guidance, so there is none to put inside")
    smaller = DistillDecoder(steps=1, width=0.25, blocks=2, low_blocks=3).smaller(tokenizer.autoencoder)
    return replace(model, tokenizer=VqTokenizer(smaller, tokenizer.grid), sampler=model.sampler.with_guidance_inside())


def passed(model: ImageModel, steps: Steps, folder: Path) -> Path:
    """The engine folder behind these passes."""
    generator = np.random.default_rng(0)
    shape, count = model.shape, CALIBRATION
    tokens = TokenSet(
        generator.integers(0, shape.vocabulary, (count, shape.length)),
        generator.integers(0, max(1, shape.classes), count),
        np.zeros(count, dtype=np.int64),
    )
    folder.mkdir(parents=True, exist_ok=True)
    current: Any = model
    for step in steps:
        for name, settings in step.items():
            if name == "quantize":  # a tied head stays with its embedding; random weights need no care
                head = "float" if model.transformer.config.tied_head else "same"
                settings = {"head": head, "rounding": "nearest", **settings}
            made = parse(find(name, "stack"), settings, f"stack.{name}")
            current = made.run(current, Context(model, tokens, count, 0, folder)).model
    current.save(folder)
    return folder


def eager(name: str, model: ImageModel, threads: int) -> Stack:
    """Eager PyTorch with a KV cache, its sampler included."""
    torch.set_num_threads(threads)
    kind = torch.bfloat16 if "bf16" in name else torch.float32
    size = sum(each.numel() for each in model.transformer.parameters()) * kind.itemsize
    table = model.transformer.embedding.weight.numel() * kind.itemsize
    read = size if model.transformer.config.tied_head else size - table
    if kind is torch.float32 and name != COMPILED:

        def plain(rows: int) -> object:
            labels, sampler = labels_of(model, rows)
            return model.draw_tokens(labels, 0, sampler)

        return Stack(name, plain, read, size / 2**20, picture=lambda: model.generate(np.zeros(1, dtype=np.int64)))
    transformer: Any = copy.deepcopy(model.transformer).to(kind)
    step = torch.compile(transformer.step, dynamic=True) if name == COMPILED else transformer.step
    config = model.transformer.config

    def draw(rows: int) -> object:
        with torch.no_grad():
            past = [KeyValue(*(part.to(kind) for part in each)) for each in transformer.empty_cache(rows)]
            tokens = torch.full((rows, 1), config.first_class)
            for _ in range(config.length):
                logits, past = step(tokens, past)
                top = torch.topk(logits[:, -1].float(), min(2000, config.vocabulary))
                chosen = torch.multinomial(top.values.softmax(-1), 1)
                tokens = top.indices.gather(1, chosen)
        return tokens

    return Stack(name, draw, read, size / 2**20)

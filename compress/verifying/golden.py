"""Proof that a checkpoint loads rightly: a model against the outputs of the original implementation, in every form.

Letters: N pictures, T tokens of a picture, O logits of a position, H x W pixels.

A golden file (.npz) holds inputs and what the original computed of them. Each array is compared in PyTorch, through the
KV cache (or whatever a step keeps), and in an engine that was exported exactly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.archives import FileError
from calibration.arrays import array_names
from compress.core.settings import InputError, setting
from compress.models import families
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import Arrays, Golden, check_rows, tokens_of_scales
from compress.models.image_model import ImageModel
from compress.models.tokenizer import formats
from compress.models.tokenizer.model import PixelTokenizer, Tokenizer, VqTokenizer
from compress.models.transformer.examples import examples_of
from compress.passes.export import Export, pictures_of
from compress.verifying import golden_arrays
from compress.verifying.golden_arrays import check_inputs, check_range
from export.runtime.engine import Engine, run_once
from export.runtime.sampling import halton_order
from export.tracing.trace import plain_graph

TOLERANCE = 1e-4
RANDOM_PICTURES = 2


@dataclass(frozen=True)
class Compared:
    """One array of the golden file, computed in one way."""

    array: str = setting(doc="the array's name in the golden file")
    where: str = setting(doc="torch, step by step, or engine")
    largest: float = setting(doc="largest absolute difference; of tokens, how many differ")
    allowed: float = setting(doc="what is allowed")

    @property
    def agrees(self) -> bool:
        """Whether the difference is allowed."""
        return self.largest <= self.allowed


def compare(source: families.Source, golden: Path | None) -> list[Compared]:
    """Load a checkpoint, or an image tokenizer's, and compare every array of a golden file in every form.

    Without a golden file the forms are compared with each other, on random tokens.

    Raises:
        InputError: the checkpoint does not load, or the golden file is not its family's.
    """
    if golden:
        check_readable(golden)  # before minutes are spent on the checkpoint
    path = families.checked_path(source, source.checkpoint)
    if not source.family and not families.is_own(path) and not families.graph_family(source, path):
        checkpoint = families.open_checkpoint(source, path)
        kind = formats.recognise(checkpoint)
        if families.recognise(checkpoint) is None and kind:
            families.check_stated(source, formats.keys_of(kind), f"{source.checkpoint}: config", kind)
            arrays = golden_arrays.of_tokenizer(golden) if golden else {}
            tokenizer = formats.read(checkpoint, tokenizer_config(checkpoint, arrays), source.checkpoint)
            return compare_tokenizer(tokenizer, arrays or random_codes(tokenizer), str(golden))
    model = families.load(source, source.checkpoint, stand_in)
    if golden is None:
        return compare_forms(model)
    family = families.find(model.family) if model.family in families.names() else None
    if not isinstance(family, TorchFamily) or not family.golden_arrays:
        raise InputError(f"--golden: the family {model.family} is compared without a golden file; leave it out")
    return compare_model(model, family, golden_arrays.of_family(golden, family))


def check_readable(golden: Path) -> None:
    """Refuse what is no .npz file.

    Raises:
        InputError: says what it is.
    """
    try:
        array_names(golden)
    except FileError as error:
        raise InputError(f"--golden: {error}") from error


def compare_forms(model: ImageModel) -> list[Compared]:
    """Random tokens through the cache and through an exact engine, against one pass in PyTorch."""
    shape, generator = model.shape, np.random.default_rng(0)
    tokens = generator.integers(0, shape.vocabulary, (RANDOM_PICTURES, shape.length))
    labels = generator.integers(0, shape.classes + 1, RANDOM_PICTURES)
    text = shape.text
    features = None if text is None else generator.standard_normal((RANDOM_PICTURES, text.length, text.width))
    given = examples_of(shape, tokens, labels, 0, None if features is None else features.astype(np.float32))
    with tempfile.TemporaryDirectory() as room:
        engine = exported(model, Path(room))
        whole = model.score(given.inputs, given.features)
        ways = {"torch, step by step": model.score_stepwise, "engine": engine.score}
        if shape.drawing.sequential:
            ways["engine, step by step"] = engine.score_stepwise
        return [of_numbers("logits", way, score(given.inputs, given.features), whole) for way, score in ways.items()]


def random_codes(tokenizer: Tokenizer) -> dict[str, NDArray[Any]]:
    """Random codes, and what PyTorch makes of them, so that the engine is compared with it."""
    tokens = np.random.default_rng(0).integers(0, tokenizer.vocabulary, (RANDOM_PICTURES, tokenizer.length))
    with torch.no_grad():
        pixels = tokenizer.decoder().eval()(torch.from_numpy(tokens))[1]
    return {"codes": tokens, "decoded_unclamped": pixels.permute(0, 3, 1, 2).numpy()}


def stand_in(config: Any) -> Tokenizer:
    """Greys for tokens, where a transformer is checked without its image tokenizer."""
    return PixelTokenizer(config.vocabulary, config.grid)


def tokenizer_config(checkpoint: Checkpoint, arrays: Arrays) -> dict[str, Any]:
    """The checkpoint's config with the grid of the golden codes."""
    if "codes" not in arrays or "grid" in checkpoint.config:
        return dict(checkpoint.config)
    side = round(arrays["codes"].shape[1] ** 0.5)
    return {**checkpoint.config, "grid": [side, side]}


def compare_model(model: ImageModel, family: TorchFamily, arrays: Arrays) -> list[Compared]:
    """Every array of a transformer's golden file.

    Raises:
        InputError: an array is not one of this model; it is named.
    """
    shape = model.shape
    check_rows(arrays)
    try:
        golden = family.golden(arrays, shape)
    except ValueError as error:  # of a Sampler
        raise InputError(f"--golden: {error}") from error
    check_inputs(golden.inputs, golden.features, shape, model.transformer.config.reach)
    found: list[Compared] = []
    if "halton_order" in arrays:
        order = np.stack(np.divmod(halton_order(shape.grid), shape.grid[1]), axis=1)
        found.append(of_tokens("halton_order", "order", order, arrays["halton_order"]))
    if "var_input" in arrays:
        with torch.no_grad():
            latents = model.transformer.scales.features(torch.from_numpy(golden.inputs[:, 1:])).numpy()
        found.append(of_numbers("var_input", "torch", latents, arrays["var_input"]))
    with tempfile.TemporaryDirectory() as room:
        engine = exported(model, Path(room))
        ways: dict[str, Callable[[], NDArray[np.float32]]] = {
            "torch": lambda: model.score(golden.inputs, golden.features),
            "torch, step by step": lambda: model.score_stepwise(golden.inputs, golden.features),
            "engine": lambda: engine.score(golden.inputs, golden.features),
            "engine, step by step": lambda: engine.score_stepwise(golden.inputs, golden.features),
        }
        for way, score in ways.items():
            found.append(of_numbers("logits", way, score(), arrays["logits"]))
        for way, drawer in (("torch", model), ("engine", engine)):
            found += drawn(drawer, golden, arrays, way)
        if "decoded_image" in arrays:
            found += decoded(
                model.tokenizer,
                tokens_of_scales(arrays),
                arrays["decoded_image"],
                "decoded_image",
                signed=True,
                clamped=True,
            )
    return found


def exported(model: ImageModel, room: Path) -> Engine:
    """The model as an engine that computes exactly what it does."""
    export = Export(target="onnxruntime")
    with export.named():
        made = export.exported(model)
        export.ensures(made)
    made.save(room)
    return Engine.load(room)


def drawn(drawer: ImageModel | Engine, golden: Golden, arrays: Arrays, way: str) -> list[Compared]:
    """What is drawn when the likeliest token is always taken."""
    if golden.sampler is None or golden.labels is None:
        return []
    tokens = drawer.draw_tokens(golden.labels, 0, golden.sampler, golden.features)
    if "greedy_tokens" in arrays:
        wanted = arrays["greedy_tokens"]
        return [of_tokens("greedy_tokens", way, tokens, wanted.reshape(len(wanted), -1))]
    pixels = as_pixels(drawer, tokens)
    return [of_numbers("greedy_image", way, pixels, arrays["greedy_image"].transpose(0, 2, 3, 1))]


def as_pixels(drawer: ImageModel | Engine, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pictures (N, H, W, C) in 0..1 before they are rounded."""
    if isinstance(drawer, Engine):
        pixels: NDArray[np.float32] = drawer.image_decoder.run(["pixels"], {"tokens": tokens})[0]
    else:
        with torch.no_grad():
            pixels = drawer.tokenizer.decoder()(torch.from_numpy(tokens))[1].numpy()
    return pixels.clip(0, 1)


def compare_tokenizer(tokenizer: Tokenizer, arrays: Arrays, where: str) -> list[Compared]:
    """Every array of an image tokenizer's golden file.

    Raises:
        InputError: an array is not one of this tokenizer; it is named.
    """
    found: list[Compared] = []
    signed = arrays.get("decoded_image", arrays.get("decoded", np.zeros(1))).min() < 0
    if "decoded_image" in arrays:
        found += decoded(
            tokenizer, tokens_of_scales(arrays), arrays["decoded_image"], "decoded_image", signed=True, clamped=True
        )
    unclamped = "decoded_unclamped" in arrays
    if unclamped:
        found += decoded(tokenizer, arrays["codes"], arrays["decoded_unclamped"], "decoded_unclamped", signed=False)
    if "decoded" in arrays:
        found += decoded(tokenizer, arrays["codes"], arrays["decoded"], "decoded", signed=signed, clamped=unclamped)
    if "encoded_codes" in arrays:
        found += encoded(tokenizer, arrays)
    if arrays and not found:
        raise InputError(f"--golden: {where}: holds nothing that an image tokenizer computes")
    return found


def decoded(
    tokenizer: Tokenizer,
    tokens: NDArray[np.int64],
    wanted: NDArray[np.float32],
    name: str,
    *,
    signed: bool,
    clamped: bool = False,
) -> list[Compared]:
    """Pictures (N, C, H, W) of tokens (N, T), in PyTorch and in the exported decoder."""
    check_range("tokens" if name == "decoded_image" else "codes", tokens, tokenizer.vocabulary)
    if tokens.shape[1] != tokenizer.length:
        raise InputError(f"--golden: {name}: has {tokens.shape[1]} tokens; the tokenizer's pictures {tokenizer.length}")
    decoder = tokenizer.decoder().eval()
    with torch.no_grad():
        ways = {"torch": decoder(torch.from_numpy(tokens))[1].numpy()}
    ways["engine"] = run_graph(pictures_of(tokenizer).decoder_graph, "pixels", {"tokens": tokens})
    rows = []
    for way, pixels in ways.items():
        bounded = np.clip(pixels, 0, 1) if clamped else pixels
        scaled = bounded * 2 - 1 if signed else bounded
        rows.append(of_numbers(name, way, scaled.transpose(0, 3, 1, 2), wanted))
    return rows


class FloatEncoder(nn.Module):
    """Codes (B, T) of pictures (B, C, H, W) in the autoencoder's own range, not rounded to grey levels."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pixels: Tensor) -> Tensor:
        codes: Tensor = self.autoencoder.quantize(self.autoencoder.latents(pixels))
        return codes.flatten(1)


def encoded(tokenizer: Tokenizer, arrays: Arrays) -> list[Compared]:
    """Codes (N, T) of pictures (N, C, H, W) that are not rounded."""
    assert isinstance(tokenizer, VqTokenizer)
    height, width, channels = tokenizer.picture
    if not tokenizer.autoencoder.can_encode:
        raise InputError("--golden: array 'encoded_codes': this tokenizer only decodes: its checkpoint held no encoder")
    if arrays["image"].shape[1:] != (channels, height, width):
        raise InputError(
            f"--golden: array 'image' is {arrays['image'].shape}; "
            f"the tokenizer's pictures are {(channels, height, width)}"
        )
    encoder, pixels = FloatEncoder(tokenizer.autoencoder).eval(), arrays["image"].astype(np.float32)
    with torch.no_grad():
        ways = {"torch": encoder(torch.from_numpy(pixels)).numpy()}
    graph = plain_graph(encoder, torch.from_numpy(pixels), "encoder", "pixels", "tokens")
    ways["engine"] = run_graph(graph, "tokens", {"pixels": pixels})
    return [of_tokens("encoded_codes", way, codes, arrays["encoded_codes"]) for way, codes in ways.items()]


def run_graph(graph: ir.Model, output: str, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """One output of a graph in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "graph.onnx"
        ir.save(graph, path)
        return run_once(path, output, feeds)


def of_numbers(array: str, where: str, found: NDArray[Any], wanted: NDArray[Any]) -> Compared:
    """Numbers that may differ a little."""
    if found.shape != wanted.shape:
        raise InputError(f"--golden: {array}: is {wanted.shape}; the model computes {found.shape}")
    return Compared(array, where, float(np.abs(found.astype(np.float64) - wanted).max()), TOLERANCE)


def of_tokens(array: str, where: str, found: NDArray[Any], wanted: NDArray[Any]) -> Compared:
    """Whole numbers that must be equal."""
    if found.shape != wanted.shape:
        raise InputError(f"--golden: {array}: is {wanted.shape}; the model computes {found.shape}")
    return Compared(array, where, float((found != wanted).sum()), 0.0)

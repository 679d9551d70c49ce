"""What smaller image decoders cost and save: `python benchmarks/decoders.py --model photos`.

Each size is taught by `distill-decoder`, exported, and quantized by the pass `decoder`; both forms are compared on
held-out tokens with the reference's decoder. The first rows are that decoder and its int8 form. All times are of one
picture, interleaved. Published shapes have random weights, so they are timed and nothing is taught.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch
from numpy.typing import NDArray
from PIL import Image

from calibration.tokens import TokenSet
from compress.core.settings import parse, plain
from compress.data.tokens import open_source
from compress.measure.pictures.decoding import clamped, psnr, ssim
from compress.measure.speed.environment import environment
from compress.measure.speed.pinning import pinned
from compress.measure.speed.timing import paired
from compress.models.candidate import open_model
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder
from compress.passes import Context
from compress.passes.decoder import Decoder
from compress.passes.distill_decoder import DistillDecoder, products, weight_count
from compress.passes.export import Export
from export.runtime.engine import Engine

CALIBRATION = 16
FEW = 2  # random grids: ranges of random weights mean nothing, but must be there
BASE = "today"
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "photos": {
        "smallest": {"width": 0.34, "blocks": 1, "low_blocks": 1},
        "small": {"width": 0.5, "blocks": 1, "low_blocks": 2},
        "medium": {"width": 0.67},
        "large": {"width": 1.0},
    },
    "emoji": {
        "smallest": {"width": 0.34, "levels": 2, "low_blocks": 1, "blocks": 1},
        "small": {"width": 0.5, "levels": 2, "low_blocks": 2},
        "medium": {"width": 0.67, "levels": 2, "low_blocks": 2, "blocks": 3},
        "large": {"width": 0.67},
    },
    "llamagen-b": {
        "smallest": {"width": 0.25, "blocks": 1, "low_blocks": 2},
        "small": {"width": 0.25, "blocks": 2, "low_blocks": 3},
        "medium": {"width": 0.5, "blocks": 2, "low_blocks": 3},
        "large": {"width": 0.5, "blocks": 2, "levels": 4},
    },
}
TAUGHT = ("photos", "emoji")


def main() -> None:
    """Teach and quantize every size, compare and time them, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--model", default="photos", choices=SIZES)
    parser.add_argument("--sizes", default="", help="those with commas between; all where it is left out")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=20, help="rounds, at least 6")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("decoders"), help="folder of checkpoints; teaching resumes")
    parser.add_argument("--teach-only", action="store_true", help="leave comparing and timing to another call")
    parser.add_argument("--pictures", type=Path, help="a PNG: the reference's pictures above those of every size")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_model(args.model) if args.model in TAUGHT else shapes.build(args.model)
    assert isinstance(model, ImageModel)
    sizes = args.sizes.split(",") if args.sizes else list(SIZES[args.model])
    tokens = tokens_of(model, args)
    made = {name: smaller(model, tokens, name, args) for name in sizes}
    if args.teach_only:
        return
    rows = compared(model, made, tokens, args)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"machine": plain(environment()), "rows": rows}, indent=1) + "\n")


def tokens_of(model: ImageModel, args: argparse.Namespace) -> TokenSet:
    """The tokens of a shipped model; random ones of a published shape."""
    if args.model in TAUGHT:
        return open_source(args.model, "tokens")
    count = FEW + 1
    drawn = np.random.default_rng(0).integers(0, model.vocabulary, (count, model.length))
    return TokenSet(drawn, np.zeros(count, dtype=np.int64), np.array([0] * FEW + [2]))


def smaller(model: ImageModel, tokens: TokenSet, name: str, args: argparse.Namespace) -> ImageModel:
    """The model with a decoder of this size, taught where there is something to teach."""
    settings = {"steps": args.steps, "precision": "bfloat16", **SIZES[args.model][name]}
    step = parse(DistillDecoder, settings, name)
    if args.model not in TAUGHT:
        tokenizer = model.tokenizer
        assert isinstance(tokenizer, VqTokenizer)
        assert isinstance(tokenizer.autoencoder, VqAutoencoder)
        made = VqTokenizer(step.smaller(tokenizer.autoencoder), tokenizer.grid)
        return ImageModel(model.name, model.family, model.transformer, made, model.sampler)
    workspace = args.work / args.model / f"{name}-{args.steps}"
    workspace.mkdir(parents=True, exist_ok=True)

    def said(at: int, steps: int, values: dict[str, float]) -> None:
        if at % 250 == 0:
            print(f"{args.model} {name}: {at} of {steps}, {-values.get('validation', 0):.2f} dB", file=sys.stderr)

    outcome = step.run(model, Context(model, tokens, CALIBRATION, 0, workspace, said))
    print(f"{args.model} {name}: {outcome.notes.written()}", file=sys.stderr)
    return outcome.model


def compared(
    model: ImageModel, made: dict[str, ImageModel], tokens: TokenSet, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each decoder, in float32 and in int8."""
    engines: dict[tuple[str, str], Engine] = {}
    for name, each in {BASE: model, **made}.items():
        context = Context(each, tokens, CALIBRATION if args.model in TAUGHT else FEW, 0, args.work)
        exported = Export("onnxruntime").run(each, context).model
        for form, settings in (("float32", {"quantize": "none"}), ("int8", {})):
            folder = args.work / "engines" / args.model / f"{name}-{form}"
            folder.mkdir(parents=True, exist_ok=True)
            parse(Decoder, settings, form).run(exported, context).model.save(folder)
            engines[name, form] = Engine.load(folder, threads=args.threads)
    part = tokens.part("held_out") if args.model not in TAUGHT else tokens.part("held_out", args.held_out)
    pictures = {key: pixels(engine, part.tokens) for key, engine in engines.items()}
    if args.pictures:
        sheet(pictures, args.pictures)
    with pinned(args.threads):
        timings = paired({" ".join(key): drawer(engine, part.tokens) for key, engine in engines.items()}, args.repeats)
    rows = []
    for (name, form), engine in engines.items():
        network = (model if name == BASE else made[name]).tokenizer.autoencoder  # type: ignore[attr-defined]
        features = network.after_codes(network.lookup(codes(network, model, part.tokens[:1])))
        pairs = list(zip(pictures[name, form], pictures[BASE, "float32"], strict=True))
        key = f"{name} {form}"
        rows.append(
            {
                "model": args.model,
                "decoder": name,
                "form": form,
                "weights": weight_count(network.decoder),
                "products": products(network.decoder, features),
                "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
                "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
                "bytes": (engine.folder / "image_decoder.onnx").stat().st_size,  # type: ignore[operator]
                "ms": timings.median_ms(key).value,
                "ratio": timings.speedup(key, f"{BASE} int8").value,
                "ratio_ci95": timings.speedup(key, f"{BASE} int8").ci95,
            }
        )
    return rows


def codes(network: VqAutoencoder, model: ImageModel, tokens: NDArray[np.int64]) -> torch.Tensor:
    """Tokens (1, T) as the autoencoder looks them up."""
    return torch.from_numpy(tokens).unflatten(1, network.code_shape(model.tokenizer.grid))


def pixels(engine: Engine, tokens: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Pictures (H, W, C) as they are seen."""
    decode = engine.image_decoder.run
    return [clamped(decode(["pixels"], {"tokens": tokens[row : row + 1]})[0][0]) for row in range(len(tokens))]


def drawer(engine: Engine, tokens: NDArray[np.int64]) -> Callable[[], object]:
    """Decodes one picture."""
    return lambda: engine.image_decoder.run(["pixels"], {"tokens": tokens[:1]})


def sheet(pictures: dict[tuple[str, str], list[NDArray[np.float64]]], path: Path) -> None:
    """The first pictures of every decoder, one decoder a row."""
    rows = [np.concatenate(each[:8], axis=1) for each in pictures.values()]
    Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(path)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| model | decoder | weights | products of a picture | form | PSNR | SSIM | bytes | ms | today's int8 / own |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        near = f"{row['psnr']:.1f} | {row['ssim']:.3f}" if row["model"] in TAUGHT else "– | –"
        low, high = row["ratio_ci95"]
        lines.append(
            f"| {row['model']} | {row['decoder']} | {row['weights'] / 1e6:.2f} M | {row['products'] / 1e6:.0f} M | "
            f"{row['form']} | {near} | {row['bytes']:,} | {row['ms']:.1f} | "
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

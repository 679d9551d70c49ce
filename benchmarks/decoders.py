"""What smaller image decoders cost and save: `python benchmarks/decoders.py --model emoji`.

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
import onnx_ir as ir
import onnxruntime
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
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder
from compress.passes import Context
from compress.passes.decoder import Decoder
from compress.passes.distill_decoder import DistillDecoder, products, weight_count
from compress.passes.export import pictures_of
from export.graph.weights import with_weights_inside
from export.rewrites.decoder_fusion import fuse_decoder

CALIBRATION = 16
FEW = 2  # random grids: ranges of random weights mean nothing, but must be there
BASE, FLOAT, INT8 = "today", "float32", "int8"
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "emoji": {
        "medium": {"width": 0.67, "levels": 2, "low_blocks": 2, "blocks": 3, "steps": 4000},
    },
    "llamagen-b": {
        "smallest": {"width": 0.25, "blocks": 1, "low_blocks": 2},
        "small": {"width": 0.25, "blocks": 2, "low_blocks": 3},
        "medium": {"width": 0.5, "blocks": 2, "low_blocks": 3},
        "large": {"width": 0.5, "blocks": 2, "levels": 4},
    },
}
TAUGHT = ("emoji",)


def main() -> None:
    """Teach and quantize every size, compare and time them, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--model", default="emoji", choices=SIZES)
    parser.add_argument("--sizes", default="", help="those with commas between; all where it is left out")
    parser.add_argument("--steps", type=int, help="of teaching, in place of each size's own")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=20, help="rounds, at least 6")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("decoders"), help="folder of checkpoints; teaching resumes")
    parser.add_argument("--teach-only", action="store_true", help="leave comparing and timing to another call")
    parser.add_argument("--pictures", type=Path, help="a PNG: the reference's pictures above those of every size")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = shapes.build(args.model)
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
    settings = {"steps": 1, "precision": "bfloat16", **SIZES[args.model][name]}
    settings |= {"steps": args.steps} if args.steps else {}
    step = parse(DistillDecoder, settings, name)
    if args.model not in TAUGHT:
        tokenizer = model.tokenizer
        assert isinstance(tokenizer, VqTokenizer)
        assert isinstance(tokenizer.autoencoder, VqAutoencoder)
        made = VqTokenizer(step.smaller(tokenizer.autoencoder), tokenizer.grid)
        return ImageModel(model.name, model.family, model.transformer, made, model.sampler)
    workspace = args.work / args.model / f"{name}-{step.steps}"
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
    taught = args.model in TAUGHT
    quantization = parse(Decoder, {} if taught else {"ranges": "minmax", "pictures": FEW}, "decoder")
    context = Context(model, tokens, CALIBRATION if taught else FEW, 0, args.work)
    graphs: dict[tuple[str, str], bytes] = {}
    for name, each in {BASE: model, **made}.items():
        fused = fuse_decoder(pictures_of(each.tokenizer).decoder_graph).graph
        for form, graph in ((FLOAT, fused), (INT8, quantization.quantized(fused, context)[0])):
            graphs[name, form] = ir.to_proto(with_weights_inside(graph)).SerializeToString()
    decoders = {key: decoder_of(graph, args.threads) for key, graph in graphs.items()}
    part = tokens.part("held_out", args.held_out if taught else None).tokens
    pictures = {
        key: [clamped(decode(part[row : row + 1])[0]) for row in range(len(part))] for key, decode in decoders.items()
    }
    if args.pictures:
        sheet(pictures, args.pictures)
    with pinned(args.threads):
        runners = {" ".join(key): (lambda decode=decode: decode(part[:1])) for key, decode in decoders.items()}
        timings = paired(runners, args.repeats)
    rows = []
    for (name, form), graph in graphs.items():
        tokenizer = (model if name == BASE else made[name]).tokenizer
        assert isinstance(tokenizer, VqTokenizer)
        network = tokenizer.autoencoder
        assert isinstance(network, VqAutoencoder)
        codes = torch.from_numpy(part[:1]).unflatten(1, network.code_shape(tokenizer.grid))
        pairs = list(zip(pictures[name, form], pictures[BASE, FLOAT], strict=True))
        ratio = timings.speedup(f"{name} {form}", f"{BASE} {INT8}")
        rows.append(
            {
                "model": args.model,
                "decoder": name,
                "form": form,
                "weights": weight_count(network.decoder),
                "products": products(network.decoder, network.after_codes(network.lookup(codes))),
                "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
                "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
                "bytes": len(graph),
                "ms": timings.median_ms(f"{name} {form}").value,
                "ratio": ratio.value,
                "ratio_ci95": ratio.ci95,
            }
        )
    return rows


def decoder_of(graph: bytes, threads: int) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Pixels (N, H, W, C) of tokens (N, T), by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda tokens: session.run(["pixels"], {"tokens": tokens})[0]


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

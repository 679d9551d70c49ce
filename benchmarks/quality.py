"""What quantizing loses, ours and onnxruntime's own quantizers on the same export: `python benchmarks/quality.py`.

Every row is an engine folder that ONNX Runtime scored on held-out pictures, compared with the float32 export by the
product's own fidelity code. Rows of one block have the same number format; bytes are those of the decode graph. Nothing
is fused. Rows of weights alone compute with the float inputs of every layer. KL
ranks: a small NLL drift may hide many changed tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

import compress
from calibration.tokens import TokenSet
from compress.measure.drift.fidelity import Fidelity, fidelity
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples, examples
from compress.passes import Context, TorchPass
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from compress.passes.rotate import Rotate
from compress.passes.shared.budget import Budget
from compress.passes.smooth import Smooth
from export.graph.onnx_model import OnnxModel
from export.rewrites.ort_quantization import calm, excluded, prepared
from export.runtime.engine import Engine

TOKENS = {"emoji-masked": "emoji"}
FLOAT, INT8 = 1, 4  # accuracy levels of MatMulNBits: inputs in float32, or rounded to int8


@dataclass(frozen=True)
class Bench:
    """One model, its pictures, and its float32 export."""

    model: ImageModel
    context: Context
    held_out: Examples
    exported: OnnxModel
    room: Path

    def engine(self, graphs: OnnxModel, name: str) -> Engine:
        """These graphs, saved and opened."""
        folder = self.room / name
        folder.mkdir()
        graphs.save(folder)
        return Engine.load(folder)

    def calibration(self) -> Iterator[dict[str, Any]]:
        """The feeds of each calibration picture."""
        engine = self.engine(self.exported, f"calibration-{time.monotonic_ns()}")
        batch = examples(self.model.shape, self.context.calibration_tokens())
        for index in range(len(batch)):
            yield engine.feeds(batch.inputs[index : index + 1], None)


def ours(*folds: TorchPass, **settings: Any) -> Callable[[Bench], OnnxModel]:
    """`quantize` with these settings behind exact passes, exported for onnxruntime."""

    def made(bench: Bench) -> OnnxModel:
        chosen = Quantize(**{"head": "float", **settings}).deployed_on("any", ["onnxruntime"])
        model = bench.model
        for each in (*folds, chosen):
            model = each.run(model, bench.context).model
        return Export("onnxruntime").run(model, bench.context).model

    return made


def tool(decode: Callable[[Bench, onnx.ModelProto, list[str]], onnx.ModelProto]) -> Callable[[Bench], OnnxModel]:
    """A tool of onnxruntime on the decode graph of the float32 export, its head left alone."""

    def made(bench: Bench) -> OnnxModel:
        source = prepared(bench.exported.decode)
        with calm(), contextlib.redirect_stdout(io.StringIO()):
            graph = decode(bench, ir.to_proto(source), excluded(source, head=False))
        return replace(bench.exported, decode=ir.from_proto(graph))

    return made


def n_bits(config: str, symmetric: bool, group: int, level: int) -> Callable[[Bench], OnnxModel]:
    """MatMulNBits in 4 bits by one of onnxruntime's algorithms."""

    def decode(bench: Bench, graph: onnx.ModelProto, left: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import matmul_nbits_quantizer as library

        algorithm = None
        if config == "HQQ":
            algorithm = library.HQQWeightOnlyQuantConfig(block_size=group, bits=4)
        elif config == "k-quant":
            algorithm = library.KQuantWeightOnlyQuantConfig()
        quantizer = library.MatMulNBitsQuantizer(
            graph,
            block_size=group,
            is_symmetric=symmetric,
            accuracy_level=level,
            nodes_to_exclude=left,
            algo_config=algorithm,
        )
        quantizer.process()
        made: onnx.ModelProto = quantizer.model.model
        for node in made.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = level  # HQQ and k-quant write none, or their own
        return made

    return tool(decode)


def dynamic(bench: Bench, graph: onnx.ModelProto, left: list[str]) -> onnx.ModelProto:
    """MatMulInteger: one scale for all inputs of a call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = bench.room / f"dynamic-{time.monotonic_ns()}.onnx"
    quantize_dynamic(
        graph,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=left,
        extra_options={"DefaultTensorType": int(ir.DataType.FLOAT)},
    )
    return onnx.load(path)


def static(method: str) -> Callable[[Bench], OnnxModel]:
    """Q/DQ around every product, ranges by one of onnxruntime's calibrators."""

    def decode(bench: Bench, graph: onnx.ModelProto, left: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

        class Reader:
            def __init__(self) -> None:
                self.feeds = bench.calibration()

            def get_next(self) -> dict[str, NDArray[Any]] | None:
                return next(self.feeds, None)

        path = bench.room / f"static-{time.monotonic_ns()}.onnx"
        quantize_static(
            graph,
            path,
            Reader(),
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=left,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method),
            extra_options={"DefaultTensorType": int(ir.DataType.FLOAT), "MatMulConstBOnly": True},
        )
        return onnx.load(path)

    return tool(decode)


INT4 = {"weights": "int4", "group": 128}
STATIC = {"activations": "int8", "down": "same"}
DYNAMIC = {"activations": "int8", "dynamic": True}
INT2 = {"weights": "int2", "group": 32}
ROTATED = Rotate(stream="auto", values=True, down="none")  # the stream where it can be
ALL = replace(ROTATED, down="auto")
CHOICE = ("int8", "int4-g32-zeros", "int4-g64", "int2-g32-zeros", "float")
CHOICE_OF_G128 = ("int8", "int4-g128", "int2-g32-zeros", "float")
BYTES_OF_G64 = (0.5 + 4 / 64) / 4  # of int4 in groups of 64 for each byte in float32

BLOCKS: dict[str, dict[str, Callable[[Bench], OnnxModel]]] = {
    "int4 weights alone, groups of 128": {
        "ours, nearest": ours(**INT4, rounding="nearest"),
        "ours": ours(**INT4),
        "ours, zero points": ours(**INT4, symmetric=False),
        "onnxruntime RTN, symmetric": n_bits("RTN", True, 128, FLOAT),
        "onnxruntime RTN": n_bits("RTN", False, 128, FLOAT),
        "onnxruntime HQQ": n_bits("HQQ", False, 128, FLOAT),
    },
    "int4 weights alone, groups of 32": {
        "ours": ours(weights="int4", group=32),
        "ours, zero points": ours(weights="int4", group=32, symmetric=False),
        "onnxruntime RTN": n_bits("RTN", False, 32, FLOAT),
        "onnxruntime HQQ": n_bits("HQQ", False, 32, FLOAT),
        "onnxruntime k-quant": n_bits("k-quant", False, 32, FLOAT),
    },
    "int8 weights and static activations": {
        "ours, one scale for all of ffn.down": ours(activations="int8", down="same"),
        "ours, nearest": ours(activations="int8", rounding="nearest"),
        "ours": ours(activations="int8"),
        "onnxruntime MinMax": static("MinMax"),
        "onnxruntime Entropy": static("Entropy"),
        "onnxruntime Percentile": static("Percentile"),
    },
    "int8 weights and dynamic activations": {
        "ours": ours(activations="int8", dynamic=True),
        "ours, head too": ours(activations="int8", dynamic=True, head="same"),
        "onnxruntime": tool(dynamic),
    },
    "FP8 weights and activations": {
        "ours": ours(weights="fp8", activations="fp8", ranges="absmax"),
        "ours, attention's products and ffn.down in float": ours(
            weights="fp8",
            activations="fp8",
            ranges="absmax",
            keep=("*.ffn.down", "*.attention.query", "*.attention.key", "*.attention.value"),
        ),
    },
    "behind smooth and rotate": {
        "int8, all static": ours(**STATIC),
        "int8, all static, ffn.down rotated": ours(Rotate(), **STATIC),
        "int8, all static, smooth": ours(Smooth(), **STATIC),
        "int8, all static, smooth, ffn.down rotated": ours(Smooth(), Rotate(), **STATIC),
        "int8, ffn.down dynamic": ours(activations="int8"),
        "int8, all dynamic": ours(**DYNAMIC),
        "int8, all dynamic, stream and values rotated": ours(ROTATED, **DYNAMIC),
        "int8, all dynamic, all rotated": ours(ALL, **DYNAMIC),
        "int8, all static, stream and values rotated": ours(ROTATED, **STATIC),
        "int8, ffn.down dynamic, smooth": ours(Smooth(), activations="int8"),
        "int2 weights, groups of 32": ours(**INT2),
        "int2 weights, groups of 32, stream and values rotated": ours(ROTATED, **INT2),
        "int2 weights, groups of 32, all rotated": ours(ALL, **INT2),
        "int4 weights, groups of 128": ours(**INT4),
        "int4 weights, groups of 128, all rotated": ours(ALL, **INT4),
        "int4 weights, groups of 128, nearest": ours(**INT4, rounding="nearest"),
        "int4 weights, groups of 128, nearest, all rotated": ours(ALL, **INT4, rounding="nearest"),
    },
    "formats chosen layer by layer, weights alone": {
        "int4 in groups of 64, all": ours(weights="int4", group=64),
        "chosen, as many bytes": ours(assign="auto", formats=CHOICE, budget=Budget(size=BYTES_OF_G64)),
        "chosen, KL x 1000 at most 0.05": ours(assign="auto", formats=CHOICE, budget=Budget(kl=5e-5)),
        "chosen, KL x 1000 at most 0.5": ours(assign="auto", formats=CHOICE, budget=Budget(kl=5e-4)),
        "chosen, KL x 1000 at most 5": ours(assign="auto", formats=CHOICE, budget=Budget(kl=5e-3)),
    },
    "formats chosen layer by layer, int4 in groups of 128": {
        "int4 in groups of 128, all": ours(weights="int4", group=128),
        "chosen, KL x 1000 at most 0.025": ours(assign="auto", formats=CHOICE_OF_G128, budget=Budget(kl=2.5e-5)),
        "chosen, KL x 1000 at most 0.1": ours(assign="auto", formats=CHOICE_OF_G128, budget=Budget(kl=1e-4)),
    },
    "all of a small engine": {
        "int4 groups of 32 with zero points, int8 inputs, int8 head and embedding": ours(
            weights="int4", activations="int8", dynamic=True, group=32, symmetric=False, head="auto", embedding="int8"
        ),
        "int4 groups of 128, int8 inputs, int8 head and embedding": ours(
            weights="int4", activations="int8", dynamic=True, group=128, head="auto", embedding="int8"
        ),
    },
}


def measured(bench: Bench, maker: Callable[[Bench], OnnxModel], reference: NDArray[np.float32]) -> dict[str, Any]:
    """One row."""
    started = time.process_time()
    graphs = maker(bench)
    spent = time.process_time() - started
    engine = bench.engine(graphs, f"row-{time.monotonic_ns()}")
    inputs = bench.held_out
    found: Fidelity = fidelity(reference, engine.score(inputs.inputs), inputs.targets, scored=inputs.scored)
    size = sum(path.stat().st_size for path in engine.folder.glob("decode.onnx*"))
    return {
        "kl": found.kl,
        "kl_ci95": found.kl_ci95,
        "agreement": found.agreement,
        "nll_drift": found.nll_drift,
        "nll_drift_ci95": found.nll_drift_ci95,
        "bytes": size,
        "seconds": spent,
    }


def rows_of(name: str, pictures: int, calibration: int, wanted: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each row of a model: block, label and numbers; a tool that cannot is said to."""
    model, tokens = compress.load(name), compress.load_tokens(TOKENS.get(name, name))
    assert isinstance(model, ImageModel)
    assert isinstance(tokens, TokenSet)
    held_out = examples(model.shape, tokens.part("held_out", pictures))
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        context = Context(model, tokens, calibration, 0, room)
        exported = Export("onnxruntime").run(model, context).model
        bench = Bench(model, context, held_out, exported, room)
        reference = bench.engine(exported, "reference").score(held_out.inputs)
        for block, rows in BLOCKS.items():
            for label, maker in rows.items():
                if wanted not in block:
                    continue
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        yield block, label, measured(bench, maker, reference)
                except Exception as error:  # of other tools: anything
                    yield block, label, {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}


def main() -> None:
    """A line for each row, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--models", nargs="+", default=["digits", "emoji", "emoji-masked"])
    parser.add_argument("--pictures", type=int, default=100, help="held-out pictures that are scored")
    parser.add_argument("--calibration", type=int, default=128, help="training pictures that are calibrated on")
    parser.add_argument("--block", default="", help="only blocks whose name has this")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = []
    print("| model | numbers | row | KL × 1000 | agreement | NLL drift | decode graph | CPU time |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in asked.models:
        for block, label, row in rows_of(name, asked.pictures, asked.calibration, asked.block):
            found.append({"model": name, "block": block, "row": label, **row})
            if "failed" in row:
                print(f"| {name} | {block} | {label} | {row['failed']} |", flush=True)
                continue
            low, high = (1000 * each for each in row["kl_ci95"])
            print(
                f"| {name} | {block} | {label} | {1000 * row['kl']:.4f} ({low:.4f} to {high:.4f}) | "
                f"{100 * row['agreement']:.2f} % | {100 * row['nll_drift']:+.3f} % | {row['bytes'] / 1e6:.2f} MB | "
                f"{row['seconds']:.1f} s |",
                flush=True,
            )
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

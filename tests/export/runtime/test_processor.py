"""What the processor does with 8-bit products, here and, where QEMU is installed, on one without VNNI."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration.tokens import TokenSet
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import examples
from compress.passes import Context
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from export.runtime.engine import Engine
from export.runtime.processor import LARGEST_SUM, PRODUCT, exact_products, products_saturate

QEMU = shutil.which("qemu-x86_64")
WITHOUT_VNNI = "Haswell"  # AVX2; on one with SSE4.2 alone, ONNX Runtime's products do not saturate
emulated = pytest.mark.skipif(
    QEMU is None or platform.machine() != "x86_64", reason="needs qemu-x86_64 (Debian: qemu-user) on an x86 machine"
)
SCRIPT = """
import json, sys, warnings
import numpy as np
from export.runtime.engine import Engine
from export.runtime.processor import products_saturate
folder, inputs, output = sys.argv[1:]
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    engine = Engine.load(folder, threads=1)
pictures = engine.generate([3, 1], seed=0)
np.savez(output, logits=engine.score(np.load(inputs)), pictures=pictures)
print(json.dumps({"saturates": products_saturate(), "warnings": [str(each.message) for each in heard]}))
"""


def test_the_embedded_product_is_what_onnx_makes_of_its_description() -> None:
    weights = numpy_helper.from_array(np.full((2, 1), 127, dtype=np.int8), "w")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert onnx.load_from_string(PRODUCT) == model


def test_exact_products_do_not_saturate_on_any_processor() -> None:
    options = onnxruntime.SessionOptions()
    exact_products(options)
    session = onnxruntime.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
    assert session.run(["y"], {"x": np.full((1, 2), 255, dtype=np.uint8)})[0].item() == LARGEST_SUM


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux's list of a processor's features")
def test_products_saturate_where_an_x86_processor_lacks_vnni() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    x86 = platform.machine() == "x86_64"
    assert products_saturate() == (x86 and not {"avx512_vnni", "avx_vnni"} & set(flags))


@pytest.fixture(scope="module")
def engines(tiny_model, tiny_tokens: TokenSet, tmp_path_factory) -> dict[object, tuple[ImageModel, Path]]:
    """int8 models of loud weights with their engines' folders, by how their weights are kept from saturating."""
    model, made = tiny_model(ffn=96), {}
    for reduce_range in ("auto", True, False):
        room = tmp_path_factory.mktemp(f"reduce-range-{reduce_range}")
        context = Context(model, tiny_tokens, calibration=8, seed=0, workspace=room)
        rounded = (
            Quantize(activations="int8", reduce_range=reduce_range, down="same", rounding="nearest")
            .run(model, context)
            .model
        )
        (room / "engine").mkdir()
        Export(target="onnxruntime").run(rounded, context).model.save(room / "engine")
        made[reduce_range] = rounded, room / "engine"
    return made


def check_scores(logits: np.ndarray, model: ImageModel, inputs: np.ndarray) -> None:
    """They are PyTorch's, but for activations that lie on the edge between two codes and fell the other way."""
    with torch.inference_mode():
        expected = model.score(inputs)
    assert (np.abs(logits - expected) > 1e-3).mean() < 0.01
    assert np.abs(logits - expected).max() < 0.1  # saturated products moved them by more than 1


@pytest.mark.slow
@pytest.mark.parametrize("reduce_range", ["auto", True, False])
def test_an_int8_engine_computes_what_pytorch_does_on_this_processor(
    reduce_range, engines, tiny_tokens: TokenSet, recwarn
) -> None:
    model, folder = engines[reduce_range]
    engine = Engine.load(folder, threads=1)
    inputs = examples(model.shape, tiny_tokens).take(slice(4)).inputs
    check_scores(engine.score(inputs), model, inputs)
    assert engine.manifest.cpu == ("any" if reduce_range else "vnni")
    heard = [str(each.message) for each in recwarn if "VNNI" in str(each.message)]
    assert bool(heard) == (not reduce_range and products_saturate())


@pytest.mark.skipif(
    not products_saturate(), reason="needs a processor whose 8-bit products saturate (x86 without VNNI)"
)
def test_full_range_weights_would_be_wrong_here_by_the_usual_kernels(engines, tiny_tokens: TokenSet) -> None:
    model, folder = engines[False]
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "cpu": "any"}))
    try:
        inputs = examples(model.shape, tiny_tokens).take(slice(4)).inputs
        logits = Engine.load(folder, threads=1).score(inputs)
    finally:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert np.abs(logits - model.score(inputs)).max() > 0.5


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("reduce_range", ["auto", False])
def test_an_int8_engine_computes_what_pytorch_does_on_a_processor_without_vnni(
    reduce_range, engines, tiny_tokens: TokenSet, tmp_path: Path
) -> None:
    model, folder = engines[reduce_range]
    inputs = examples(model.shape, tiny_tokens).take(slice(2)).inputs
    np.save(tmp_path / "inputs.npy", inputs)
    command = [str(QEMU), "-cpu", WITHOUT_VNNI, sys.executable, "-c", SCRIPT]
    output = subprocess.run(
        [*command, folder, tmp_path / "inputs.npy", tmp_path / "made.npz"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    there = np.load(tmp_path / "made.npz")
    check_scores(there["logits"], model, inputs)
    assert there["pictures"].shape == (2, 8, 8, 1)
    said = json.loads(output.stdout.splitlines()[-1])
    assert said["saturates"]
    assert ["cpu: any" in text for text in said["warnings"]] == ([True] if reduce_range is False else [])

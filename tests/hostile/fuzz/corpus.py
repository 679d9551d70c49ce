"""What is mutated: a tiny model, its tokens, a finished run with engine, report and store, and a foreign decoder."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

GRID = (4, 4)
LEVELS = 17
CLASSES = 10
RECIPE = """\
model:  {{checkpoint: {folder}/model}}
tokens: {{source: {folder}/tokens.npz, calibration: 8, held_out: 8}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
engines:
  cpu: [export: {{target: onnxruntime}}]
"""
FOREIGN = """\
model:
  checkpoint: {folder}/foreign/model.onnx
  tokenizer: {folder}/model
  config:
    first_run_seconds: 30
    grid: [4, 4]
    image_offset: 20
    start: [1]
    classes: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    no_class: 12
"""


def prepare(folder: Path) -> Path:
    """The corpus in this folder, made if it is not there; processes that ask at once wait for the first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "done").touch()
    return folder


def make(folder: Path) -> None:
    """Write all of it."""
    from compress.core.listener import Silent
    from compress.core.store import Store
    from compress.recipe import recipe
    from compress.running import pipeline
    from export.runtime.engine import Engine
    from export.runtime.sheet import save_grid

    make_model(folder / "model")
    make_tokens(folder / "tokens.npz")
    make_foreign(folder / "foreign")
    (folder / "foreign.yaml").write_text(FOREIGN.format(folder=folder))
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder))
    pipeline.run(recipe.load(path), Store(folder / "store"), folder / "run", Silent(), preflight=False)
    shutil.copytree(folder / "run" / "engines" / "cpu", folder / "engine")
    save_grid(Engine.load(folder / "engine", threads=1).generate([1, 2]), folder / "drawn.png")


def make_model(folder: Path) -> None:
    """One layer, width 32, 4x4 tokens in 17 levels, 10 classes."""
    import torch

    from compress.models.families import reference
    from compress.models.image_model import ImageModel
    from compress.models.tokenizer.model import PixelTokenizer
    from compress.models.transformer.architecture import LayerConfig, TransformerConfig
    from compress.models.transformer.model import TokenTransformer
    from export.runtime.sampling import Sampler

    config = TransformerConfig(
        vocabulary=LEVELS, classes=CLASSES, grid=GRID, width=32, head_width=8, layers=(LayerConfig(4, 4, 40),),
        rotary_base=100.0,
    )  # fmt: skip
    transformer = TokenTransformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + ("norm" in name))
    folder.mkdir()
    tokenizer = PixelTokenizer(LEVELS, GRID)
    reference.save(ImageModel("tiny", "reference", transformer.eval(), tokenizer, Sampler(cfg_scale=1.5)), folder)


def make_tokens(path: Path) -> None:
    """40 training, 8 validation and 12 held-out pictures that brighten with the class."""
    import numpy as np

    from calibration.tokens import TokenSet

    generator = np.random.default_rng(0)
    labels = np.arange(60) % CLASSES
    tokens = labels[:, None] + generator.integers(0, 7, (60, GRID[0] * GRID[1]))
    TokenSet(tokens, labels, np.repeat([0, 1, 2], [40, 8, 12])).save(path)


def make_foreign(folder: Path, *, mask: bool = True, positions: bool = True) -> None:
    """A decoder of 40 ids, width 8, with the inputs and outputs of Hugging Face and one layer of attention.

    Without `positions` it counts them itself, without `mask` it sees every position up to its own.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)
    vocabulary, width = 40, 8

    def constant(name: str, value: object, kind: type = np.float32) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype=kind), name)

    def weight(name: str, *shape: int) -> TensorProto:
        return constant(name, 0.4 * generator.standard_normal(shape))

    initializers = [
        weight("embedding", vocabulary, width), weight("places", 64, width),
        *(weight(name, width, width) for name in ("wq", "wk", "wv", "wo")), weight("head", width, vocabulary),
        constant("heads", [1], np.int64), constant("zero", 0, np.int64), constant("one", 1, np.int64),
        constant("two", 2, np.int64),
        constant("first", [0], np.int64), constant("second", [1], np.int64), constant("far", -1e9),
        constant("scale", width**0.5), constant("middle", [1, 2], np.int64), constant("end", [2**62], np.int64),
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["embedded"]),
        node("Shape", ["attention_mask" if mask else "past_key_values.0.key"], ["long_shape"]),
        node("Gather", ["long_shape", "one" if mask else "two"], ["total" if mask else "past"]),
        node("Shape", ["input_ids"], ["ids_shape"]),
        node("Gather", ["ids_shape", "one"], ["count"]),
        *([] if mask else [node("Add", ["past", "count"], ["total"])]),
        node("Range", ["zero", "total", "one"], ["columns"]),
        node("Neg", ["count"], ["last"]),
        node("Unsqueeze", ["last", "first"], ["lasts"]),
        node("Slice", ["columns", "lasts", "end", "first"], ["rows"]),
        node("Gather", ["places", "position_ids" if positions else "rows"], ["placed"]),
        node("Add", ["embedded", "placed"], ["x"]),
        *(node("MatMul", ["x", f"w{part}"], [f"flat_{part}"]) for part in "qkv"),
        *(node("Unsqueeze", [f"flat_{part}", "heads"], [f"new_{part}"]) for part in "qkv"),
        node("Concat", ["past_key_values.0.key", "new_k"], ["present.0.key"], axis=2),
        node("Concat", ["past_key_values.0.value", "new_v"], ["present.0.value"], axis=2),
        node("Transpose", ["present.0.key"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["new_q", "turned"], ["products"]),
        node("Div", ["products", "scale"], ["scores"]),
        # A position sees the columns up to its own, as far as the mask shows them.
        node("Unsqueeze", ["rows", "second"], ["rows_down"]),
        node("LessOrEqual", ["columns", "rows_down"], ["causal" if mask else "seen"]),
        *(
            [
                node("Unsqueeze", ["attention_mask", "middle"], ["mask_across"]),
                node("Cast", ["mask_across"], ["shown"], to=TensorProto.BOOL),
                node("And", ["causal", "shown"], ["seen"]),
            ]
            if mask
            else []
        ),
        node("Where", ["seen", "scores", "far"], ["hidden"]),
        node("Softmax", ["hidden"], ["shares"], axis=-1),
        node("MatMul", ["shares", "present.0.value"], ["mixed"]),
        node("Squeeze", ["mixed", "heads"], ["flat"]),
        node("MatMul", ["flat", "wo"], ["out"]),
        node("Tanh", ["out"], ["bent"]),
        node("Add", ["x", "bent"], ["y"]),
        node("MatMul", ["y", "head"], ["logits"]),
    ]

    def value(name: str, kind: int, *shape: str | int) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    whole, real = TensorProto.INT64, TensorProto.FLOAT
    cache = [(f"{{}}.0.{part}", real, "b", 1, "p", width) for part in ("key", "value")]
    inputs = [value("input_ids", whole, "b", "n")]
    inputs += [value("attention_mask", whole, "b", "t")] if mask else []
    inputs += [value("position_ids", whole, "b", "n")] if positions else []
    inputs += [value(name.format("past_key_values"), *rest) for name, *rest in cache]
    outputs = [value("logits", real, "b", "n", vocabulary)]
    outputs += [value(name.format("present"), *rest[:3], "q", *rest[4:]) for name, *rest in cache]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializers)
    folder.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx")

"""Exports have names a person can read, equal bytes for equal models, and survive their folder."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from compress.models.tokenizer.model import PixelTokenizer
from compress.passes.export import pictures_of
from export.graph.onnx_model import OnnxModel, fix_batch
from export.graph.quiet import quiet
from export.runtime.shape import Shape
from export.targets import find
from export.tracing.export import export_model

CACHED = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]


def shapes(values: list[ir.Value]) -> dict[str, list[int | str]]:
    """Shapes by name; symbols as text."""
    return {value.name: [dim if isinstance(dim, int) else str(dim) for dim in value.shape] for value in values}


def content(model: ir.Model) -> bytes:
    """The file of a graph."""
    return ir.to_proto(model).SerializeToString()


def test_a_decode_step_takes_tokens_and_past_and_gives_logits_and_present(exported) -> None:
    graph = exported("grouped").decode.graph
    past = ["batch", 1, "past", 16]
    assert shapes(graph.inputs) == {
        "tokens": ["batch", "tokens"],
        **dict.fromkeys((f"past.{name}" for name in CACHED), past),
    }
    found = shapes(graph.outputs)
    assert list(found) == ["logits", *(f"present.{name}" for name in CACHED)]
    assert found["logits"] == ["batch", "tokens", 17]
    assert all(found[f"present.{name}"][:2] + found[f"present.{name}"][3:] == ["batch", 1, 16] for name in CACHED)


def test_weights_and_nodes_are_called_for_their_modules(exported) -> None:
    graph = exported("rotary").decode.graph
    names = {node.name for node in graph}
    assert {"/blocks/0/attention/Attention", "/blocks/1/ffn/down/MatMul", "/norm/RMSNormalization"} <= names
    assert len(names) == len(list(graph))
    assert {"blocks.0.attention.query.weight", "blocks.1.ffn.gate.weight", "embedding.weight"} <= set(
        graph.initializers
    )


def test_nothing_of_the_exporters_machine_stays(exported) -> None:
    model = exported("rotary").decode
    assert (model.producer_name, model.producer_version, model.metadata_props) == ("compress", None, {})
    assert not any(node.metadata_props or node.doc_string for node in model.graph)
    assert b"/site-packages/" not in content(model)


def test_two_exports_are_equal_byte_for_byte(model_of, exported) -> None:
    model = model_of("narrow heads")
    again = export_model(
        model.transformer,
        pictures_of(model.tokenizer),
        find("onnxruntime"),
        name=model.name,
        family=model.family,
        sampler=model.sampler,
        parameters=model.parameters(),
    )
    first = exported("narrow heads")
    assert content(again.decode) == content(first.decode)
    assert content(again.image_decoder) == content(first.image_decoder)
    assert again.manifest == first.manifest


def test_the_manifest_is_what_the_model_is(exported, model_of) -> None:
    manifest = exported("grouped", "standard").manifest
    model = model_of("grouped")
    assert (manifest.name, manifest.family, manifest.target, manifest.cache) == (
        "tiny", "reference", "standard", "growing",
    )  # fmt: skip
    assert manifest.shape == Shape("causal", 17, 10, (4, 4))
    assert (manifest.head_width, manifest.kv_heads) == (16, (1, 1))
    assert (manifest.sampler, manifest.parameters) == (model.sampler, model.parameters())


def test_a_model_survives_its_folder(exported, tmp_path) -> None:
    model = exported("narrow heads").with_plans({"decode": b"built"})
    model.save(tmp_path)
    loaded = OnnxModel.load(tmp_path)
    assert loaded.manifest == replace(model.manifest, cpu="any")
    assert loaded.manifest.files["plan"] == "decode.plan"
    assert loaded.plans == {"decode": b"built"}
    assert content(loaded.decode) == content(model.decode)
    assert content(loaded.image_decoder) == content(model.image_decoder)


def test_a_fixed_batch_is_a_number_everywhere(exported) -> None:
    graph = exported("narrow heads", fixed_batch=6).decode.graph
    assert {shape[0] for shape in (shapes(graph.inputs) | shapes(graph.outputs)).values()} == {6}


def test_fixing_the_batch_leaves_other_dimensions(exported) -> None:
    model = exported("narrow heads").decode
    fix_batch(model, 3)
    assert shapes(model.graph.inputs)["tokens"] == [3, "tokens"]
    assert shapes(model.graph.inputs)["past.0.key"][2] == "past"


def test_the_image_decoder_looks_up_the_level_of_each_token_in_raster_order(exported, engine_of, model_of) -> None:
    model = exported("narrow heads")
    pictures = engine_of(model).decode_images(np.arange(16)[None].repeat(2, 0))
    palette = model_of("narrow heads").tokenizer.palette()
    assert pictures.shape == (2, 4, 4, 1)
    assert pictures[0].ravel().tolist() == palette[:16].ravel().tolist()


def test_the_image_decoders_output_has_the_grid() -> None:
    model = pictures_of(PixelTokenizer(5, (2, 3))).decoder_graph
    assert shapes(model.graph.inputs) == {"tokens": ["batch", 6]}
    assert shapes(model.graph.outputs) == {"images": ["batch", 2, 3, 1], "pixels": ["batch", 2, 3, 1]}


def test_the_exporter_is_quiet_and_logging_comes_back_after_an_error() -> None:
    before = logging.root.manager.disable
    during = []

    def fail() -> None:
        with quiet():
            during.append(logging.root.manager.disable)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert during == [logging.WARNING]
    assert logging.root.manager.disable == before

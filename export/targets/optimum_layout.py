"""An engine as a folder that `optimum.onnxruntime.ORTModelForCausalLM.from_pretrained` opens.

Letters: B batch, S tokens of a call, P cached tokens, K key/value heads, d head width.

The decode graph is the same but for its names: `tokens` become `input_ids`, `past.{i}.key` `past_key_values.{i}.key`.
A shared cache becomes a growing one: the lengths that the runtime feeds are computed from the cache's shape. Ids are
those of the engine, and logits those of its image tokens. There is no `attention_mask` and there are no `position_ids`:
the graph counts positions itself, so all rows of a batch have prompts of the same length. Where attention is fused, a
call behind a past takes one token a row, unless there is one row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export.graph.builder import Builder
from export.graph.onnx_model import OnnxModel
from export.graph.weights import save_graph
from export.rewrites.sampling_graph import without_sampling
from export.runtime.cuts import CUTS
from export.runtime.manifest import Manifest
from export.runtime.signature import CODES, SEQLENS, TOTAL

MODEL, CONFIG, GENERATION = "model.onnx", "config.json", "generation_config.json"
SPELLED = "adopted.begins"  # a table of graphs that turn one of our tokens into several ids
INT32 = int(ir.DataType.INT32)


class LayoutError(ValueError):
    """An engine that Hugging Face's generation cannot drive; the message says why."""


def write(model: OnnxModel, folder: Path) -> None:
    """Write model.onnx, config.json and generation_config.json into an existing folder.

    Raises:
        LayoutError: the engine reads more than tokens and a growing cache, or its layers differ in their caches.
    """
    check_layout(model)
    decode = without_sampling(model.decode)
    grow(decode.graph)
    rename(decode.graph)
    save_graph(decode, folder / MODEL)
    for name, value in ((CONFIG, config(model)), (GENERATION, generation(model.manifest))):
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def check_layout(model: OnnxModel) -> None:
    """Refuse engines that are no stock decoder.

    Raises:
        LayoutError: says why.
    """
    manifest, shape = model.manifest, model.manifest.shape
    reasons = {
        f"it draws in the order {shape.order}; only causal decoders have this layout": not shape.drawing.sequential,
        "every call reads the class or the text apart from the tokens": shape.labelled or shape.text is not None,
        f"its cache is {manifest.cache}; export for onnxruntime or standard": manifest.cache
        not in ("growing", "shared"),
        f"its cache is {manifest.cache_format}; leave quantize-cache out": manifest.cache_format in CODES,
        f"its layers have {sorted(set(manifest.kv_heads))} key/value heads; optimum takes one number": len(
            set(manifest.kv_heads)
        )
        > 1,
        "one of its tokens becomes several ids inside; open the decoder that it was made from": SPELLED
        in model.decode.graph.initializers,
        f"it takes {manifest.fixed_batch} rows only; export it with fixed_batch: 0": bool(manifest.fixed_batch),
    }
    for reason, holds in reasons.items():
        if holds:
            raise LayoutError(f"{manifest.name}: {reason}")


def grow(graph: ir.Graph) -> None:
    """Compute what a shared cache is fed: GroupQueryAttention grows a cache that is not bound to its output."""
    inputs = {value.name: value for value in graph.inputs}
    if TOTAL not in inputs:
        return
    builder = Builder(graph, next(iter(graph)), "lengths")
    count = builder.add("Shape", [inputs["tokens"]], "count", start=1, end=2)
    past = builder.add("Shape", [inputs["past.0.key"]], "past", start=2, end=3)
    total = builder.add("Cast", [builder.add("Add", [past, count], "sum")], "total", to=INT32)  # (1,)
    last = builder.add("Sub", [total, scalar(builder, "one", 1)], "last")
    batch = builder.add("Shape", [inputs["tokens"]], "batch", start=0, end=1)
    replacing = {
        TOTAL: builder.add("Squeeze", [total], "scalar"),
        SEQLENS: builder.add("Expand", [last, batch], "rows"),
    }
    for name, value in replacing.items():
        ir.convenience.replace_all_uses_with(inputs[name], value)
        graph.inputs.remove(inputs[name])


def scalar(builder: Builder, name: str, value: int) -> ir.Value:
    """A whole number of 32 bits."""
    return builder.initializer(name, np.array([value], dtype=np.int32))


def rename(graph: ir.Graph) -> None:
    """Names and axes as Hugging Face's generation knows them."""
    dims: dict[str, list[Any]] = {"input_ids": ["batch_size", "sequence_length"]}
    for value in graph.inputs:
        name = value.name or ""
        if name == "tokens":
            value.name = "input_ids"
            value.shape = ir.Shape(dims["input_ids"])
        else:
            value.name = name.replace("past.", "past_key_values.", 1)
            cached(value, "past_sequence_length")
    for value in graph.outputs:
        if value.name == "logits":
            assert value.shape is not None
            value.shape = ir.Shape([*dims["input_ids"], value.shape[2]])
        else:
            cached(value, "past_sequence_length + sequence_length")


def cached(value: ir.Value, length: str) -> None:
    """The axes of a cache (B, K, P, d)."""
    assert value.shape is not None
    value.shape = ir.Shape(["batch_size", value.shape[1], length, value.shape[3]])


def config(model: OnnxModel) -> dict[str, Any]:
    """A config of the stock decoder that the graph is: GPT-2 with learned positions, else Llama.

    `num_attention_heads` are as many as make the embedding's width, so that optimum finds the width of a head; the
    graph alone decides what is computed. Ids of classes and what else a prompt needs stand under `image`.
    """
    manifest, shape = model.manifest, model.manifest.shape
    weights = model.decode.graph.initializers
    known = next((weights[name] for name in ("embedding.weight", "adopted.embedding.weight") if name in weights), None)
    rows, width = (known.shape[0], known.shape[1]) if known is not None and known.shape is not None else (0, 0)
    kv_heads, layers = manifest.kv_heads[0], len(manifest.kv_heads)
    if not isinstance(width, int) or width % manifest.head_width or not width:
        width = kv_heads * manifest.head_width
    heads = width // manifest.head_width
    learned = "position.weight" in weights and heads == kv_heads
    ids = max(int(rows) if isinstance(rows, int) else 0, shape.start_token + shape.lead)
    common_part = {"vocab_size": ids, "bos_token_id": None, "eos_token_id": None, "use_cache": True}
    image = {
        "vocabulary": shape.vocabulary,
        "grid": list(shape.grid),
        "first_class": shape.first_class,
        "classes": shape.classes,
        "no_class": shape.first_class + shape.null_class,
        "before_the_class": [shape.start_token] * shape.lead,
    }
    if learned:
        sizes = {"n_embd": width, "n_head": heads, "n_layer": layers, "n_positions": shape.reach}
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes, **common_part, "image": image}
    sizes = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "max_position_embeddings": shape.reach,
    }
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes, **common_part, "image": image}


def generation(manifest: Manifest) -> dict[str, Any]:
    """How it draws: the engine's sampler without guidance, which Hugging Face's generation does not do with classes."""
    sampler, length = manifest.sampler, manifest.shape.length
    found: dict[str, Any] = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": sampler.temperature > 0}
    if sampler.temperature > 0:
        # Hugging Face calls the cuts by the same names.
        found |= {"temperature": sampler.temperature, **{cut.name: getattr(sampler, cut.name) for cut in CUTS}}
    return found

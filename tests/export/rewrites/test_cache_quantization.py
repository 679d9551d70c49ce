"""A quantized cache holds what rounding by hand gives, attends as NumPy does, and draws in one file too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.rewrites.cache_quantization import cache_scales, refusal, with_quantized_cache
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.manifest import GENERATE
from export.targets import fuse

LARGEST = {"int8": 127, "int4": 7}
KINDS = [(held, scales) for held in LARGEST for scales in ("channel", "tensor")]


def codes_of(seen: NDArray[np.float32], scale: NDArray[np.float32], held: str) -> NDArray[np.float32]:
    """Codes (N, K, L, d)."""
    _, heads, _, width = seen.shape
    wide = np.broadcast_to(scale, heads * width).reshape(heads, 1, width)
    return np.clip(np.rint(seen / wide), -LARGEST[held] - 1, LARGEST[held])


def unpacked(buffer: NDArray[np.integer], held: str) -> NDArray[np.integer]:
    """Codes (N, K, L, d) of a buffer: of int4 a byte holds two, the even one in its low half, each plus 8."""
    if held == "int8":
        assert buffer.dtype == np.int8
        return buffer
    assert buffer.dtype == np.uint8
    halves = np.stack([buffer & 15, buffer >> 4], axis=-1).astype(np.int64) - 8
    return halves.reshape(*buffer.shape[:-1], 2 * buffer.shape[-1])


def test_the_largest_magnitude_of_a_channel_or_of_all_stands_for_the_largest_code() -> None:
    seen = np.zeros((2, 2, 3, 2), dtype=np.float32)  # 2 pictures, 2 heads, 3 positions, 2 channels
    seen[1, 0, 2, 0], seen[0, 1, 0], seen[0, 1, 1, 0] = -12.7, [1.0, 1.27], 2.54
    np.testing.assert_allclose(cache_scales(seen, "int8", "channel"), [0.1, 1e-8, 0.02, 0.01], rtol=1e-6)
    np.testing.assert_allclose(cache_scales(seen, "int8", "tensor"), [0.1], rtol=1e-6)
    np.testing.assert_allclose(cache_scales(seen * 7, "int4", "channel"), [12.7, 1e-8, 2.54, 1.27], rtol=1e-6)


@pytest.mark.parametrize(("held", "scales"), KINDS)
@pytest.mark.parametrize("kind", ["rotary", "grouped", "learned", "zero prefix"])
def test_the_cache_holds_rounded_keys_and_values_and_scores_stay_near(
    kind, held, scales, exported, engine_of, inputs
) -> None:
    model = fuse(exported(kind)).model
    exact = engine_of(model)
    seen = exact.caches(inputs)
    chosen = {name: cache_scales(value, held, scales) for name, value in seen.items()}
    engine = engine_of(with_quantized_cache(model, held, chosen))
    found = engine.caches(inputs)
    for name in ("0.key", "0.value"):  # those of later layers depend on what attention made of the rounded ones
        wanted, codes = codes_of(seen[name], chosen[name], held), unpacked(found[name], held)
        assert np.abs(codes - wanted).max() <= 1
        assert (codes == wanted).mean() > 0.99
    logits = engine.score(inputs)
    moved = np.abs(logits - exact.score(inputs))
    assert 0 < moved.max() < {"int8": 0.15, "int4": 2.5}[held] * np.std(logits)
    np.testing.assert_allclose(engine.score_stepwise(inputs), logits, atol=1e-4)


@pytest.mark.parametrize(("held", "scales"), KINDS)
def test_attention_over_the_cache_is_that_of_numpy_over_its_numbers(held, scales, exported, engine_of, inputs) -> None:
    model = fuse(exported("learned")).model  # positions are added to the embedding, so queries are what is attended
    seen = engine_of(model).caches(inputs)
    chosen = {name: cache_scales(value, held, scales) for name, value in seen.items()}
    made = with_quantized_cache(model, held, chosen)
    shown = made.decode.clone()
    node = next(node for node in shown.graph if node.op_type == "GroupQueryAttention")
    shown.graph.outputs.extend([node.inputs[0], node.outputs[0]])
    session = onnxruntime.InferenceSession(ir.to_proto(shown).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.inputs[0].name, node.outputs[0].name]
    query, mixed = session.run(names, engine_of(made).feeds(inputs, None))
    key, value = (
        codes_of(seen[name], chosen[name], held)
        * np.broadcast_to(chosen[name], seen[name].shape[1] * seen[name].shape[3]).reshape(-1, 1, seen[name].shape[3])
        for name in ("0.key", "0.value")
    )  # (N, K, L, d)
    rows, heads, length, width = key.shape
    query = query[..., : mixed.shape[-1]]  # queries, keys and values may come as one
    heads_of_queries = query.reshape(rows, length, -1, width).transpose(0, 2, 1, 3)  # (N, H, L, d)
    shared = heads_of_queries.shape[1] // heads
    scores = heads_of_queries @ np.repeat(key, shared, 1).swapaxes(2, 3) / np.sqrt(width)
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = (weights / weights.sum(-1, keepdims=True)) @ np.repeat(value, shared, 1)
    np.testing.assert_allclose(mixed, wanted.transpose(0, 2, 1, 3).reshape(mixed.shape), atol=2e-5)


@pytest.mark.parametrize("held", LARGEST)
def test_a_quantized_cache_draws_the_same_step_by_step_and_in_one_file(held, exported, engine_of, inputs) -> None:
    model = with_sampling(fuse(exported("rotary")).model)
    seen = engine_of(model).caches(inputs)
    model = with_quantized_cache(
        model, held, {name: cache_scales(each, held, "channel") for name, each in seen.items()}
    )
    files = {**model.manifest.files, "generate": GENERATE}
    engine = engine_of(replace(model, generate=single_file(model), manifest=replace(model.manifest, files=files)))
    tokens, _ = engine.draw_in_one(np.arange(3), 2)
    np.testing.assert_array_equal(tokens, engine.draw_tokens(np.arange(3), 2))


def test_what_no_kernel_keeps_is_refused_with_what_there_is() -> None:
    assert [refusal("shared", held, scales) for held, scales in KINDS] == [""] * len(KINDS)
    there_are = "there are int8 and int4, each with scales for each channel or tensor"
    assert refusal("shared", "fp8", "channel") == (
        f"no kernel of GroupQueryAttention keeps fp8 with a scale for each channel; {there_are}"
    )
    assert refusal("shared", "int4", "token") == (
        f"no kernel of GroupQueryAttention keeps int4 with a scale for each token; {there_are}"
    )
    assert refusal("static", "fp8", "tensor") == (
        "the cache is static, and TensorRT updates only caches of floats in place: no int8, int4 or fp8; "
        "floats: float16 of export halves it"
    )
    assert refusal("growing", "int8", "channel") == (
        "the cache is growing; only a shared one can be int8 or int4: put it behind a fuse that matches attention, "
        "for target onnxruntime"
    )

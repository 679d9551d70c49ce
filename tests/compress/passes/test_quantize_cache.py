"""`quantize-cache` says what it saves, chooses scales, and refuses what no kernel keeps."""

from __future__ import annotations

import pytest

from compress.models.artifact import Form
from compress.passes import PassError, find
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.quantize_cache import QuantizeCache


@pytest.fixture(scope="module")
def held() -> list:
    """Holds the one exported model of these tests."""
    return []


@pytest.fixture
def model(held, tiny_model, context):
    """A model of one layer whose attention can be fused."""
    if not held:
        held.append(Export("onnxruntime").run(tiny_model(layers=1, head_width=16), context()).model)
    return held[0]


def test_it_takes_and_gives_onnx_and_is_lossy() -> None:
    assert find("quantize-cache", "recipe") is QuantizeCache
    assert (QuantizeCache.accepts, QuantizeCache.returns) == (Form.ONNX, Form.ONNX)
    assert not QuantizeCache.exact
    assert QuantizeCache.uses_tokens


def test_the_notes_say_that_a_cache_takes_a_quarter(model, context) -> None:
    fused = Fuse().run(model, context()).model
    outcome = QuantizeCache(pictures=3).run(fused, context())
    assert outcome.model.manifest.cache_format == "int8"
    assert fused.manifest.cache_format == "float32"
    shape, heads = fused.manifest.shape, fused.manifest.kv_heads[0]
    numbers = 2 * heads * 16 * shape.reach
    assert outcome.notes.written() == {"pictures": 3, "cache_bytes_before": 4 * numbers, "cache_bytes": numbers}
    with pytest.raises(PassError) as error:
        QuantizeCache().run(outcome.model, context())
    assert str(error.value) == "quantize-cache: the cache is int8 already; quantize it once"


def test_a_cache_of_half_precision_becomes_int8_and_the_rest_stays_as_it_is(tiny_model, context) -> None:
    half = Export("onnxruntime", floats="float16").run(tiny_model(layers=1, head_width=16), context()).model
    made = QuantizeCache(pictures=3).run(Fuse().run(half, context()).model, context()).model
    assert (made.manifest.floats, made.manifest.cache_format) == ("float16", "int8")


def test_a_growing_cache_is_refused(model, context) -> None:
    with pytest.raises(PassError) as error:
        QuantizeCache().run(model, context())
    assert str(error.value) == (
        "quantize-cache: the cache is growing; only a shared one can be int8 or int4: put it behind a fuse that "
        "matches attention, for target onnxruntime"
    )


def test_int4_takes_half_of_what_int8_does(model, context) -> None:
    fused = Fuse().run(model, context()).model
    notes = {held: QuantizeCache(format=held, pictures=3).run(fused, context()).notes for held in ("int8", "int4")}
    assert notes["int4"].cache_bytes * 2 == notes["int8"].cache_bytes
    assert notes["int4"].cache_bytes_before == notes["int8"].cache_bytes_before


@pytest.mark.parametrize("settings", [{"format": "fp8"}, {"scales": "token"}])
def test_what_has_no_kernel_is_refused_in_one_line(settings, model, context) -> None:
    fused = Fuse().run(model, context()).model
    with pytest.raises(PassError) as error:
        QuantizeCache(**settings).run(fused, context())
    assert str(error.value).startswith("quantize-cache: no kernel of GroupQueryAttention keeps ")
    assert "\n" not in str(error.value)

"""Kinds are told from names, and bytes and products from the graph's constants."""

from __future__ import annotations

import pytest

from compress.measure.speed.profile import cache_bytes, kind_of, loads_of, profile
from compress.passes.export import Export
from export.runtime.engine import Engine
from export.runtime.roofline import Roofline

LIMITS = Roofline(1, 10.0, 50.0, 200.0)


@pytest.fixture
def engine(tiny_model, context, tmp_path) -> Engine:
    """A plain export."""
    Export("onnxruntime").run(tiny_model(), context()).model.save(tmp_path)
    return Engine.load(tmp_path, threads=1)


def test_kinds_are_told_from_the_names_of_nodes() -> None:
    names = {
        "/blocks/0/attention/query/MatMul": "attention",
        "/blocks/0/attention_norm/RMSNormalization": "norms",
        "/blocks/0/ffn/gate/MatMul": "feed-forward",
        "/head/MatMul": "head",
        "/embedding/Gather": "embedding",
        "/blocks/3/modulation/linear/Gemm": "modulation",
        "/sampling/TopK": "sampling",
        "/Add_3": "other",
    }
    assert {name: kind_of(name, "") for name in names} == names


def test_weights_of_a_kind_are_counted_once_a_step(engine, tiny_model) -> None:
    transformer = tiny_model().transformer
    wanted = sum(linear.weight.numel() for name, linear in transformer.linears() if "ffn" in name)
    load = loads_of(engine)["feed-forward"]
    assert load.products == wanted
    assert load.size_bytes >= 4 * wanted
    assert not load.integer


def test_a_row_of_a_step_reads_all_that_is_cached_before_it(engine) -> None:
    length, manifest = engine.shape.length, engine.manifest
    floats = sum(2 * manifest.head_width * heads * (step + 1) for heads in manifest.kv_heads for step in range(length))
    assert cache_bytes(engine) == 4 * floats


def test_the_rows_share_all_the_time_and_name_the_image_decoder(engine) -> None:
    rows = profile(engine, 1, LIMITS)
    kinds = [row.kind for row in rows]
    assert {"attention", "feed-forward", "head"} <= set(kinds)
    assert any(kind.startswith("decoder: ") for kind in kinds)
    assert sum(row.share for row in rows) == pytest.approx(1)
    head = rows[kinds.index("head")]
    assert head.ms_per_token * engine.shape.length == pytest.approx(head.milliseconds)
    assert head.roofline_share is not None
    assert head.roofline_share > 0

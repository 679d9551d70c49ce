"""The evidence of built plans as a measure: shares worked by hand, and the promise that quantized products keep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compress.measure import EngineMeasurement
from compress.measure.speed.plans import Plans, of, types_of
from compress.recipe.gates import gate
from compress.recipe.verdict import judge, promised
from export.runtime.built import Build, BuiltPart, Evidence

STEP = Evidence("step", 62, {"Int8 x Int8": 24, "Float x Float": 1}, 42, 42, (), 0, 6, 6, (), 12, 12)
PREFILL = replace(STEP, profile="prefill", kernels=80, fused=3)
PICTURES = Evidence("whole", 65, {"Float x Float": 21}, 0, 0, (), 0, 1, 0, ("/attention",), 0, 0)
BUILD = Build(
    "tensorrt-rtx",
    "1.7.1.116",
    ("8.6", "8.9"),
    "",
    (1, 2, 16),
    {"decode": BuiltPart(2**20, (STEP, PREFILL)), "image_decoder": BuiltPart(2**10, (PICTURES,))},
)
IN_FLOAT = replace(
    BUILD,
    parts={"decode": BuiltPart(2**20, (replace(STEP, asked=4, low=3, in_float=("/qkv/MatMul",), unpacked=1),))},
)


def test_shares_are_of_what_the_graphs_ask_for():
    found = of(BUILD)
    assert found.builder == "TensorRT for RTX 1.7.1.116"
    assert found.low_precision_products == 1
    assert found.fused_attention == 9 / 12  # of both profiles of a step; the image decoder's are not of a step
    assert found.caches_in_place == 1
    assert (found.kernels, found.unpacked, found.plan_mib) == (62, 0, 1)
    assert [(each.graph, each.profile) for each in found.parts] == [
        ("decode", "step"),
        ("decode", "prefill"),
        ("image_decoder", "whole"),
    ]
    assert types_of(found.parts) == "24 Int8 x Int8, 1 Float x Float"


def test_what_a_graph_does_not_have_is_no_share():
    found = of(replace(BUILD, parts={"decode": BuiltPart(5, (PICTURES,))}))
    assert (found.low_precision_products, found.caches_in_place) == (None, None)
    assert list(found.broken()) == []


def row(build: Build, **changes: str) -> EngineMeasurement:
    """A row of a report with the measure of a build."""
    engine = EngineMeasurement("rtx", "engine", 1, 1, target="tensorrt", **changes)  # type: ignore[arg-type]
    return engine.with_results({Plans.name: of(build)})


def test_a_quantized_product_that_is_computed_in_float_breaks_a_promise_without_a_gate():
    assert promised(row(BUILD), "rtx") == []
    (breach,) = promised(row(IN_FLOAT), "rtx")
    assert (breach.measurement, breach.value, breach.gate) == ("low_precision_products", 0.75, 1.0)
    assert breach.text.startswith(
        "rtx: TensorRT for RTX 1.7.1.116 computes 1 quantized products in float (/qkv/MatMul of decode)"
    )


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"low_precision_products": 1}, False),
        ({"low_precision_products": 0.75}, True),
        ({"fused_attention": 1, "caches_in_place": 1}, True),
    ],
)
def test_gates_judge_the_shares(limits: dict, kept: bool):
    assert (judge(gate(**limits), row(IN_FLOAT), "rtx") == []) == kept


def test_gates_of_speed_wait_where_the_runtime_is_not_here():
    wanted = gate(speedup=2, low_precision_share=0.9)
    assert judge(wanted, row(BUILD, not_run="by TensorRT for RTX"), "rtx") == []
    assert len(judge(wanted, row(BUILD), "rtx")) == 2
    assert len(judge(gate(kl=1), row(BUILD, not_run="by TensorRT for RTX"), "rtx")) == 1


def test_what_was_built_and_not_run_is_said():
    assert row(BUILD).built == ""
    assert row(BUILD, not_run="by a builder").built == "built, not run: by a builder"
    assert row(BUILD, not_built="no builder").built == "not built: no builder"

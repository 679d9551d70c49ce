"""The table of number formats against what TensorRT for RTX really builds."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import small_graphs as small

from export.building.capabilities import CAPABILITIES, USUAL, unknown
from export.building.precisions import refusals, used, usual
from export.building.process import build
from export.building.profiles import Profile
from export.graph.inference import inferred, without_weights

PRODUCTS = [
    ("fp32", "", False, 0),
    ("fp16", "", False, 0),
    ("bf16", "", False, 0),
    ("fp32", "int8", True, 0),
    ("fp16", "int8", True, 0),
    ("fp16", "int8", False, 0),
    ("fp16", "fp8", True, 0),
    ("fp16", "fp8", False, 0),
    ("fp16", "int4", False, 64),
    ("fp16", "int4", False, 0),
]
PROFILE = Profile("whole", {"x": ((1, small.K), (2, small.K), (16, small.K))})


def formats(*product: object) -> dict:
    """What a product computes with."""
    floats, weights, both, group = product
    model = small.product(floats, weights, both=both, group=group)  # type: ignore[arg-type]
    return used(inferred(without_weights(ir.from_proto(model))))


@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("product", PRODUCTS)
def test_what_the_table_refuses_is_what_the_builder_refuses(product: tuple, tmp_path: Path):
    floats, weights, both, group = product
    path = small.written(small.product(floats, weights, both=both, group=group), tmp_path)
    attempts = build(path, [PROFILE], [[each] for each in CAPABILITIES], 120).attempts
    built = [each.plan is not None for each in attempts]
    assert built == [not list(refusals(formats(*product), [each])) for each in CAPABILITIES]


def test_a_refusal_names_the_format_the_node_and_what_has_it():
    (said,) = refusals(formats("fp16", "fp8", True, 0), ["8.0", "8.6", "8.9"])
    assert said == "FP8 (first at /weights): compute capability 8.0 and 8.6 has none; 8.9, 12.0, 12.1 have"


def test_the_usual_capabilities_are_those_that_compute_the_formats():
    assert usual(formats("fp16", "int8", True, 0)) == USUAL
    assert usual(formats("fp16", "fp8", True, 0)) == ("8.9", "12.0")


def test_an_unknown_capability_is_refused_with_those_that_exist():
    assert unknown("9.0") == (
        "9.0 is no compute capability that TensorRT for RTX builds for; it knows 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; the "
        "classic TensorRT builds for H100 and H200, on such a GPU"
    )
    assert unknown("3.0").endswith("8.9, 12.0, 12.1")

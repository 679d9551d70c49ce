"""Number formats against ONNX's own types and values worked by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from export.graph.number_formats import FORMATS


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.kind is not None])
def test_the_limits_are_those_of_the_type_in_a_graph(name: str) -> None:
    form = FORMATS[name]
    limits = ml_dtypes.finfo(form.kind) if name == "fp8" else ml_dtypes.iinfo(form.kind)
    assert (form.smallest, form.largest) == (limits.min, limits.max)
    assert np.dtype(form.kind).itemsize * 8 >= form.bits
    assert torch.zeros(1, dtype=getattr(torch, form.storage)).element_size() == 1


def test_two_bits_are_no_type_of_standard_onnx_and_have_four_codes() -> None:
    form = FORMATS["int2"]
    assert form.kind is None
    assert (form.smallest, form.largest, form.weights_from) == (-2, 1, -2)


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("int8", [0.5, 1.5, -2.5, 200.0, -200.0], [0.0, 2.0, -2.0, 127.0, -128.0]),
        ("int4", [0.5, 1.5, 7.4, 9.0, -9.0], [0.0, 2.0, 7.0, 7.0, -8.0]),
        ("fp8", [0.3, 17.0, 19.0, 1000.0, -1000.0], [0.3125, 16.0, 20.0, 448.0, -448.0]),
    ],
)
def test_values_are_rounded_half_to_even_and_saturate(name: str, values: list[float], wanted: list[float]) -> None:
    form, given = FORMATS[name], torch.tensor(values)
    assert form.rounded(given, form.smallest, form.largest).tolist() == wanted
    assert given.tolist() == torch.tensor(values).tolist()  # the input is left as it was

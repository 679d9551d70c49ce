"""Formats by name, and the bytes of a layer in one: those of the constants in a lowered graph."""

from __future__ import annotations

import pytest

from compress.core.settings import InputError
from compress.measure.speed.kernels import Kernel, graph_of
from compress.models.transformer.quantized import LinearQuantization
from compress.passes.shared.format_names import format_called, name_of, weight_bytes

NAMES = {
    "float": None,
    "int8": LinearQuantization("int8"),
    "int8-static": LinearQuantization("int8", "int8"),
    "int4-g128": LinearQuantization("int4", group=128),
    "int4-dynamic-g32-zeros": LinearQuantization("int4", "int8", dynamic=True, group=32, symmetric=False),
    "int8-zeros": LinearQuantization("int8", symmetric=False),
    "int2-dynamic": LinearQuantization("int2", "int8", dynamic=True),
    "fp8-static": LinearQuantization("fp8", "fp8"),
}


@pytest.mark.parametrize(("name", "spec"), NAMES.items())
def test_a_name_says_a_format_and_a_format_its_name(name, spec):
    assert format_called(name, "formats") == spec
    assert name_of(spec) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int5", r"^--formats: 'int5' is no format; write float, or int8, int4, int2, fp8 with -static or -dynamic"),
        ("int4-g12", r"^--formats: 'int4-g12': group 12: must be 0 or a power of two from 16"),
        ("int4-static", r"^--formats: 'int4-static': weights int4 with activations int8: no engine has a static"),
        ("g128-int4", r"^--formats: 'g128-int4' is no format"),
    ],
)
def test_what_no_engine_computes_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        format_called(name, "--formats")


@pytest.mark.parametrize(("name", "spec"), NAMES.items())
@pytest.mark.parametrize("inputs", [256, 192])
def test_bytes_are_those_of_a_graphs_constants(name, spec, inputs):
    kernel = Kernel(inputs, 48, spec)
    graph = graph_of(kernel).graph
    static = 8 * (4 + 1) if spec is not None and spec.static else 0  # scales and zero points of the inputs
    held = sum(each.const_value.nbytes for each in graph.initializers.values())
    assert weight_bytes(inputs, 48, spec) == (held - static) / 8


def test_bytes_worked_by_hand():
    assert weight_bytes(192, 10, None) == 4 * 1920
    assert weight_bytes(192, 10, LinearQuantization("int4", group=128)) == 10 * (2 * 64 + 2 * 4)  # filled up to 256
    assert weight_bytes(192, 10, LinearQuantization("int4", group=64, symmetric=False)) == 10 * (96 + 3 * 4 + 2)
    assert weight_bytes(192, 10, LinearQuantization("int8")) == 10 * (192 + 4 + 1)

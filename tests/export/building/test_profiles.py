"""The shapes that plans take, worked by hand, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from export.building import BuildError
from export.building.profiles import PREFILL, STEP, WHOLE, Rows, decode_sizes, other_sizes, profiles
from export.graph.onnx_model import OnnxModel
from export.runtime.shape import Shape, TextShape


def graph(*inputs: tuple[str, list[int | str] | None]) -> ir.Graph:
    """A graph of nothing but inputs."""
    values = [ir.Value(name=name, shape=None if sizes is None else ir.Shape(sizes)) for name, sizes in inputs]
    return ir.Graph(values, [], nodes=[])


def shape(**changes: object) -> Shape:
    """A causal shape of 4 x 4 tokens."""
    return Shape(**{"vocabulary": 17, "classes": 10, "order": "causal", "grid": (4, 4), **changes})  # type: ignore[arg-type]


def test_rows_must_be_in_order():
    with pytest.raises(ValueError, match=r"rows 1, 8, 4: need 1 <= smallest <= best <= largest"):
        Rows(1, 8, 4)


def test_the_profile_covers_every_input_whose_batch_varies(exported: Callable[..., OnnxModel]):
    model = exported("narrow heads", "tensorrt")
    (profile,) = profiles(model.decode.graph, decode_sizes(model.manifest.shape, Rows(1, 2, 16)))
    assert profile.name == STEP
    assert profile.shapes == {
        "tokens": ((1, 1), (2, 1), (16, 1)),
        "past.0.key": ((1, 2, 16, 8), (2, 2, 16, 8), (16, 2, 16, 8)),
        "past.0.value": ((1, 2, 16, 8), (2, 2, 16, 8), (16, 2, 16, 8)),
    }


def test_a_model_that_first_reads_several_tokens_has_a_profile_for_that():
    sizes = decode_sizes(shape(lead=1), Rows(1, 2, 4))
    assert list(sizes) == [STEP, PREFILL]
    assert sizes[STEP]["tokens"] == (1, 1, 1)
    assert sizes[PREFILL]["tokens"] == (1, 2, 17)


def test_a_text_is_read_in_the_first_call_and_no_more():
    sizes = decode_sizes(shape(classes=1, text=TextShape(5, 6)), Rows(1, 2, 4))
    assert (sizes[STEP]["text"], sizes[PREFILL]["text"]) == ((0, 0, 0), (5, 5, 5))


def test_a_masked_model_makes_calls_of_one_kind():
    sizes = decode_sizes(shape(order="masked"), Rows(1, 2, 4))
    assert list(sizes) == [WHOLE]
    assert sizes[WHOLE]["positions"] == (1, 8, 16)


def test_a_next_scale_model_reads_a_scale_at_a_time():
    scaled = shape(order="next-scale", grid=(3, 3), scales=(1, 1, 1, 2, 3), latent_width=6)
    assert decode_sizes(scaled, Rows(1, 2, 4))[WHOLE]["tokens"] == (1, 9, 9)


def test_other_graphs_take_as_many_rows():
    (profile,) = profiles(graph(("tokens", ["batch", 16]), ("fixed", [2])), other_sizes(shape(), Rows(1, 2, 4)))
    assert profile.shapes == {"tokens": ((1, 16), (2, 16), (4, 16))}


def test_a_size_that_nobody_bounds_is_refused_unless_there_is_a_bound_for_all():
    unbound = graph(("x", ["batch", "width"]))
    with pytest.raises(BuildError, match=r"^the input x has a size 'width' that nothing bounds; known: batch, text$"):
        profiles(unbound, other_sizes(shape(), Rows(1, 2, 4)))
    (profile,) = profiles(unbound, {WHOLE: {}}, unknown=(1, 2, 16))
    assert profile.shapes["x"] == ((1, 1), (2, 2), (16, 16))


def test_an_input_without_a_shape_is_refused():
    with pytest.raises(BuildError, match="the input x has no shape; give it one"):
        profiles(graph(("x", None)), {WHOLE: {}})

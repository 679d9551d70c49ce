"""How a table of embeddings is kept, by what `quantize` is told."""

from __future__ import annotations

import pytest

from compress.models.transformer.embedding import EmbeddingQuantization
from compress.passes import PassError
from compress.passes.quantize import Quantize

TIED = {"tied_head": True}


@pytest.mark.parametrize(
    ("width", "model", "settings", "group"),
    [
        (48, {}, {"group": 128}, 16),
        (32, {}, {"group": 16}, 16),
        (32, {}, {}, 0),
        (32, TIED, {}, 32),
        (32, TIED, {"group": 16}, 16),
    ],
)
def test_groups_in_four_bits_are_those_of_the_weights_as_far_as_they_divide_rows(
    tiny_model, width, model, settings, group
) -> None:
    transformer = tiny_model(width=width, head_width=16, **model).transformer
    asked = Quantize(weights="int4", embedding="int4", **settings)
    assert asked.table(transformer) == EmbeddingQuantization("int4", group)


def test_zero_points_in_four_bits_are_those_of_the_weights(tiny_model) -> None:
    made = Quantize(weights="int4", embedding="int4", group=16, symmetric=False).table(tiny_model().transformer)
    assert made == EmbeddingQuantization("int4", 16, symmetric=False)


def test_rows_of_an_odd_width_have_no_whole_bytes_in_four_bits(tiny_model) -> None:
    transformer = tiny_model(width=33, head_width=11, positions="learned").transformer
    with pytest.raises(PassError, match=r"^embedding: int4, but rows of 33 numbers fill no whole bytes; use int8$"):
        Quantize(embedding="int4").table(transformer)

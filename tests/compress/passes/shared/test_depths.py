"""Layers of a model are found in the reference by their rows."""

from __future__ import annotations

import itertools

import pytest
import torch

from compress.passes import PassError
from compress.passes.quantize import Quantize
from compress.passes.shared.depths import ascending, depths
from compress.passes.shared.pruning import UNITS, keep_groups, keep_layers


def pruned(model, kept):
    """A model without layers and half of the units of the rest, its weights moved a little."""
    transformer = keep_layers(model.transformer, kept)
    transformer = keep_groups(transformer, UNITS, [torch.arange(0, 40, 2)] * len(kept))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return transformer


@pytest.mark.parametrize("kept", [[1, 2, 4], [0], [3, 4], [0, 1, 2, 3, 4]])
def test_layers_are_found_after_units_went_and_weights_moved(tiny_model, kept):
    model = tiny_model(layers=5)
    assert depths(pruned(model, kept), model.transformer) == tuple(kept)


def test_quantized_layers_are_found_too(tiny_model, context):
    model = tiny_model(layers=4)
    smaller = model.with_transformer(keep_layers(model.transformer, [0, 3]))
    assert depths(Quantize().run(smaller, context()).model.transformer, model.transformer) == (0, 3)


def test_layers_that_are_named_are_believed(tiny_model):
    model = tiny_model(layers=4)
    assert depths(keep_layers(model.transformer, [0, 3]), model.transformer, [0, 1]) == (2, 3)


def test_the_assignment_is_the_best_ascending_one():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 4), (3, 5), (4, 4)):
        alike = torch.rand(rows, columns, generator=generator)
        best = max(
            itertools.combinations(range(columns), rows),
            key=lambda chosen: sum(float(alike[row, column]) for row, column in enumerate(chosen)),
        )
        assert ascending(alike) == best


@pytest.mark.parametrize(
    ("own", "removed", "text"),
    [
        (
            2,
            [1],
            "removed [1]: the reference has 4 layers and the model 2; name the 2 that it no longer has, from 0 to 3",
        ),
        (2, [1, 1], "removed [1, 1]: the reference has 4 layers and the model 2; name the 2 "),
        (2, [1, 4], "removed [1, 4]: the reference has 4 layers and the model 2; name the 2 "),
        (5, [], "the model has 5 layers, the reference 4; it can have no more"),
    ],
)
def test_numbers_that_do_not_add_up_are_refused(tiny_model, own, removed, text):
    with pytest.raises(PassError) as caught:
        depths(tiny_model(layers=own).transformer, tiny_model(layers=4).transformer, removed)
    assert str(caught.value).startswith(text)


def test_a_layer_that_is_like_none_is_refused(tiny_model):
    with pytest.raises(PassError, match=r"layer 0 is like no layer of the reference \(the nearest is \d, cosine 0\.\d"):
        depths(tiny_model(seed=9, width=64).transformer, tiny_model(layers=4, width=64).transformer)

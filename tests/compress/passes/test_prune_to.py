"""prune-to: the share of parameters is reached, and what matters least for each of them goes first."""

from __future__ import annotations

import pytest
import torch

from compress.passes import PassError
from compress.passes.prune_to import PruneTo
from compress.passes.quantize import Quantize
from compress.passes.shared.allocation import Piece, cheapest, group_sizes, left, removable
from compress.passes.shared.pruning import HEADS, UNITS


@pytest.mark.parametrize("share", [0.9, 0.8])
def test_so_many_parameters_are_left_and_no_fewer_than_a_piece_less(any_model, any_tokens, context, share):
    run = context(any_model, tokens=any_tokens, calibration=24)
    outcome = PruneTo(parameters=share, multiple=4).run(any_model, run)
    piece = max(group_sizes(any_model.transformer, HEADS)[0], 4 * group_sizes(any_model.transformer, UNITS)[0])
    stretches = outcome.model.parameters() - share * any_model.parameters()
    assert -piece <= stretches <= 8, "a norm over all heads gets a number for each of at most 8 that are left"
    assert all(units % 4 == 0 for units in outcome.notes.units_per_layer)
    assert outcome.notes.parameters == pytest.approx(outcome.model.parameters() / any_model.parameters(), abs=1e-4)
    assert outcome.notes.repair.stream_error_after <= outcome.notes.repair.stream_error_before


def test_the_share_of_all_changes_nothing(tiny_model, context):
    model = tiny_model()
    made = PruneTo(parameters=1.0).run(model, context(model)).model.transformer.state_dict()
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, made[name])


def test_a_layer_that_matters_less_loses_more(tiny_model, context):
    model = tiny_model()
    with torch.no_grad():
        model.transformer.blocks[1].ffn.down.weight *= 0.01
    notes = PruneTo(parameters=0.8, multiple=8, repair=False).run(model, context(model)).notes
    assert notes.units_per_layer == (40, 8)
    assert notes.repair is None


def test_sizes_of_groups_are_counted_by_hand(tiny_model):
    grouped = tiny_model(kv_heads=2, bias=True).transformer
    # two query heads, a key and a value head, each 8 rows of 32 and a bias, and 16 columns of the output
    assert group_sizes(grouped, HEADS) == [4 * 8 * 33 + 16 * 32] * 2
    assert group_sizes(tiny_model().transformer, UNITS) == [3 * 32] * 2


def test_pieces_are_cut_so_that_multiples_stay_and_the_best_block_with_them(tiny_model):
    model = tiny_model(ffn=22, layers=1).transformer
    scores = torch.arange(22.0).flip(0)
    pieces = removable(model, [(UNITS, 8)], [[scores]])
    assert [piece.groups.tolist() for piece in pieces] == [
        [21, 20, 19, 18, 17, 16],  # 16 of 22 stay
        [15, 14, 13, 12, 11, 10, 9, 8],
    ]
    assert pieces[0].score == 0 + 1 + 2 + 3 + 4 + 5
    assert pieces[0].parameters == 6 * 3 * 32
    assert removable(model, [(UNITS, 32)], [[scores]]) == []


def test_the_cheapest_for_each_parameter_go_until_enough_are_free():
    def piece(layer, parameters, score):
        return Piece(0, layer, torch.tensor([layer]), parameters, score)

    pieces = [piece(0, 10, 1.0), piece(1, 100, 11.0), piece(2, 10, 2.0)]
    assert [each.layer for each in cheapest(pieces, 11)] == [0, 1]
    assert [each.layer for each in cheapest(pieces, 10)] == [0]
    assert cheapest(pieces, 0) == []
    assert [each.tolist() for each in left([2, 2, 3], pieces[1:], 0)] == [[0, 1], [0], [0, 1]]


def test_a_share_that_cannot_be_reached_is_refused(tiny_model, context):
    # of 17472 parameters 3 of 4 heads and 8 of 40 units may go in each of two layers: 2 (3 x 1024 + 8 x 96) = 7680
    with pytest.raises(PassError) as caught:
        PruneTo(parameters=0.1).run(tiny_model(), context())
    assert str(caught.value) == (
        "prune-to: parameters 0.1 cannot be reached: with one head and 32 units in each layer 0.56 of them are left; "
        "use at least 0.57, or prune-layers too"
    )


def test_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError, match="prune-to: the model has 15 quantized layers; put prune-to before quantize"):
        PruneTo(parameters=0.9).run(quantized, context())


def test_the_rehearsal_does_all_but_the_removal(tiny_model, tiny_tokens):
    lighter, ratio = PruneTo(parameters=0.3).rehearsal()
    assert (lighter.parameters, ratio) == (1.0, 1.0)
    model = tiny_model()
    assert PruneTo(parameters=0.5).keeps(model, tiny_tokens, 4) == 2 * 4 * 4 * 32 * model.transformer.config.reach
    assert PruneTo(parameters=0.5, repair=False).keeps(model, tiny_tokens, 4) == 0

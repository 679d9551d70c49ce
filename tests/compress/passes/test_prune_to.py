"""prune-to: the share of parameters is reached, and what matters least for each of them goes first."""

from __future__ import annotations

import pytest
import torch

from compress.core.settings import ContradictionError
from compress.measure.speed.timing import Timings
from compress.passes import PassError, prune_to
from compress.passes.prune_to import PruneTo, machine
from compress.passes.quantize import Quantize
from compress.passes.shared.allocation import Piece, cheapest, group_sizes, left, removable
from compress.passes.shared.pruning import HEADS, UNITS
from compress.passes.shared.step_times import Curve, StepTimes


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

    def size(structure, layer, count):
        return group_sizes(model, UNITS)[layer] * count

    pieces = removable([(UNITS, 8)], [[scores]], size)
    assert [piece.groups.tolist() for piece in pieces] == [
        [21, 20, 19, 18, 17, 16],  # 16 of 22 stay
        [15, 14, 13, 12, 11, 10, 9, 8],
    ]
    assert pieces[0].score == 0 + 1 + 2 + 3 + 4 + 5
    assert pieces[0].frees == 6 * 3 * 32
    assert removable([(UNITS, 32)], [[scores]], size) == []


def test_what_frees_no_time_alone_goes_with_the_next_that_does():
    table = [0.0, 1.0, 1.0, 4.0, 4.0]  # milliseconds of so many heads
    scores = torch.tensor([1.0, 2.0, 3.0, 9.0])
    pieces = removable([(HEADS, 1)], [[scores]], lambda structure, layer, count: table[count])
    assert [piece.groups.tolist() for piece in pieces] == [[0, 1], [2]]
    assert [(piece.frees, piece.score) for piece in pieces] == [(3.0, 3.0), (0.0, 3.0)]
    assert pieces[1].density == float("inf")


def test_of_two_layers_what_costs_least_for_each_millisecond_goes_first():
    # the first layer's heads are slow: 2 ms each; the second's 1 ms, at half of the cost and a little more
    scores = [[torch.tensor([2.0, 4.0, 9.0]), torch.tensor([1.1, 1.2, 9.0])]]
    pieces = removable([(HEADS, 1)], scores, lambda structure, layer, count: count * (2.0, 1.0)[layer])
    assert [(piece.layer, piece.groups.tolist()) for piece in pieces] == [(0, [0]), (1, [0]), (1, [1]), (0, [1])]
    assert [piece.layer for piece in cheapest(pieces, 3.0)] == [0, 1]


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


@pytest.fixture
def made_up(monkeypatch):
    """A table in which heads take most of the time, and engines that take 4 and 3 ms for a step."""
    table = StepTimes({1: Curve((1, 4), (1.0, 4.0))}, Curve((1, 40), (0.01, 0.4)))
    monkeypatch.setattr(prune_to, "measured", lambda config, sampler, deployment: table)
    seconds = {"before": 0.010, "after": 0.006}
    monkeypatch.setattr(
        prune_to, "drawn", lambda models, deployment, context: Timings({name: (seconds[name],) * 6 for name in models})
    )


def test_the_table_alone_decides_what_goes_for_a_share_of_the_time(tiny_model, context, made_up):
    model = tiny_model()
    outcome = PruneTo(latency=0.65, multiple=8, repair=False).run(model, context(model))
    # two layers of 4 + 0.4 ms beside 1.2 ms of rest: 10 ms. One head is 1 ms, 8 units are 0.08; all units that may go
    # are 0.64, so at least 3 heads of the 6 that may go do
    notes = outcome.notes
    assert 8 - sum(notes.heads_per_layer) >= 3
    freed = 8 - sum(notes.heads_per_layer) + 0.01 * (80 - sum(notes.units_per_layer))
    assert notes.latency.predicted == pytest.approx(1 - freed / 10, abs=1e-4)
    assert 0.55 - 1e-9 <= notes.latency.predicted <= 0.65, "no more than a head less than asked for"
    assert notes.latency.step_ms == pytest.approx(10)
    assert notes.latency.table == {
        "heads 1": 1.0, "heads 4": 4.0, "units 1": 0.01, "units 40": 0.4, "rest": 1.2,
    }  # fmt: skip
    assert (notes.latency.measured, notes.latency.measured_ci95) == (0.6, (0.6, 0.6))
    assert [layer.heads for layer in outcome.model.transformer.config.layers] == [*notes.heads_per_layer]


def test_a_share_of_the_time_that_cannot_be_reached_is_refused(tiny_model, context, made_up):
    # of 10 ms 6 heads and 64 units may go: 6.64
    with pytest.raises(PassError) as caught:
        PruneTo(latency=0.2, multiple=8).run(tiny_model(), context())
    assert str(caught.value) == (
        "prune-to: latency 0.2 cannot be reached: with one head and 8 units in each layer 0.34 of a step's time are "
        "left; use at least 0.34, or prune-layers too"
    )


@pytest.mark.slow
def test_engines_are_timed_where_time_is_the_target(tiny_model, context):
    model = tiny_model(ffn=8192)  # most of a step, so that the target is in reach on a busy machine too
    notes = PruneTo(latency=0.95, multiple=8, repair=False, threads=1).run(model, context(model)).notes.latency
    assert notes.machine == machine()
    assert 0 < notes.predicted <= 0.95
    assert notes.measured_ci95[0] <= notes.measured <= notes.measured_ci95[1]
    assert notes.step_ms > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, "parameters 0 and latency 0"), ({"parameters": 0.7, "latency": 0.6}, "parameters 0.7 and latency 0.6")],
)
def test_exactly_one_target_is_given(settings, said):
    with pytest.raises(ContradictionError) as caught:
        PruneTo(**settings)
    assert str(caught.value) == f"prune-to: {said}: give exactly one of them, above 0"


def test_the_machine_is_part_of_the_key_where_its_times_decide():
    assert PruneTo(parameters=0.5).environment() == {}
    assert PruneTo(latency=0.5).environment() == {"machine": machine()}
    assert machine().endswith("cores")


def test_threads_and_batch_are_the_recipes_where_none_are_given():
    timed = PruneTo(latency=0.5).timed_as(4, 8)
    assert (timed.threads, timed.batch) == (4, 8)
    timed = PruneTo(latency=0.5, threads=1, batch=2).timed_as(4, 8)
    assert (timed.threads, timed.batch) == (1, 2)
    assert PruneTo(parameters=0.5).timed_as(4, 8) == PruneTo(parameters=0.5), "they do not matter, nor to the key"
    assert PruneTo(latency=0.5).rehearsal()[0].latency == 0

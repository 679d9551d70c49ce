"""The assignment of formats that keeps a budget, where what is measured is a multiple of the sum."""

from __future__ import annotations

import pytest

from compress.models.transformer.quantized import LinearQuantization
from compress.passes.shared.assigner import Assigner, Group, UnreachableError
from compress.passes.shared.format_names import name_of

INT2, INT4 = (LinearQuantization(weights) for weights in ("int2", "int4"))
GROUPS = [Group((f"blocks.{index}.a",), (INT2, INT4, None), (10, 20, 80), (9e-4, 1e-4, 0.0)) for index in range(3)]


def assigner(factor):
    """What is measured is the sum times a factor; what was measured is kept in order."""
    made = []

    def measure(assignment):
        made.append([name_of(spec) for spec in assignment.values()])
        kl = {group.layers[0]: dict(zip(group.formats, group.kl, strict=True)) for group in GROUPS}
        return factor * sum(kl[name][spec] for name, spec in assignment.items()), len(made)

    return Assigner(GROUPS, measure), made


def sorted_formats(found, choice):
    return sorted(name_of(spec) for spec in found.assignment(choice).values())


def test_a_sum_that_is_right_needs_one_try():
    found, made = assigner(1.0)
    choice = found.within_kl(1.11e-3)  # 9 + 1 + 1
    assert sorted_formats(found, choice) == ["int2", "int4", "int4"]
    assert len(made) == 1
    assert found.made(choice) == 1
    assert found.bytes_of(choice) == 50


def test_the_budget_of_the_sum_is_tightened_until_what_is_measured_keeps_it():
    found, made = assigner(2.0)  # together they add twice as much
    choice = found.within_kl(1.11e-3)
    assert sorted_formats(found, choice) == ["int4", "int4", "int4"]
    assert 1 < len(made) <= 8
    assert found.measured(choice) == pytest.approx(6e-4)
    assert made[found.made(choice) - 1] == ["int4"] * 3, "what is handed over is what was chosen"


def test_the_budget_of_the_sum_is_loosened_where_less_is_added_together():
    found, _ = assigner(0.5)
    choice = found.within_kl(1.0e-3)  # 1.9e-3 alone
    assert sorted_formats(found, choice) == ["int2", "int2", "int4"]
    assert found.measured(choice) == pytest.approx(9.5e-4)


def test_what_was_chosen_is_said():
    found, _ = assigner(2.0)
    notes = found.notes(found.within_kl(1.11e-3), 16, 240)
    assert notes.formats == {"blocks.0.a": "int4", "blocks.1.a": "int4", "blocks.2.a": "int4"}
    assert (notes.predicted_kl, notes.measured_kl) == pytest.approx((3e-4, 6e-4))
    assert (notes.layer_bytes, notes.float_bytes, notes.pictures) == (60, 240, 16)


def test_a_budget_that_not_even_the_best_formats_keep_shows_the_nearest_assignment():
    found, _ = assigner(2.0)
    found.groups = [Group(g.layers, g.formats[:2], g.sizes[:2], g.kl[:2]) for g in GROUPS]
    nearest = r"the nearest assignment \(3 in int4\) adds 0\.0006 nats"
    with pytest.raises(
        UnreachableError, match=rf"^budget\.kl 0\.0005 cannot be kept: {nearest}; raise it, or let more"
    ):
        found.within_kl(5e-4)


def test_a_budget_that_leaves_all_in_float_shows_what_is_nearest():
    found, _ = assigner(1.0)
    nearest = r"the nearest assignment, blocks\.0\.a alone in int4, adds 0\.0001 nats"
    with pytest.raises(UnreachableError, match=rf"^budget\.kl 1e-06 leaves every layer in float: {nearest}; raise it$"):
        found.within_kl(1e-6)


def test_bytes_are_kept_by_the_formats_that_add_least():
    found, _ = assigner(1.0)
    assert sorted_formats(found, found.within_bytes(50)) == ["int2", "int4", "int4"]
    smallest = r"the smallest assignment \(3 in int2\) takes 30"
    with pytest.raises(UnreachableError, match=rf"^budget: 29 bytes cannot be kept: {smallest}; raise it, or allow"):
        found.within_bytes(29)

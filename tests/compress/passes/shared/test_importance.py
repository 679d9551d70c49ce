"""Importance scores against weights summed by hand, finite differences and models taken apart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from compress.models.transformer.examples import examples, nll
from compress.passes.shared import importance
from compress.passes.shared.importance import (
    chunks,
    group_masks,
    influences,
    layer_masks,
    magnitude,
    masked_groups,
    removal_losses,
    residual_updates,
    taylor,
)
from compress.passes.shared.pruning import HEADS, UNITS

EPSILON = 1e-4


def quiet(step, steps, values):
    """A report that nobody reads."""


@pytest.fixture
def pictures(tiny_tokens):
    return tiny_tokens.part("train", 5)


@pytest.fixture
def any_pictures(any_tokens):
    return any_tokens.part("train", 5)


def given(transformer, pictures):
    """What a transformer takes."""
    return examples(transformer.config.shape, pictures).tensors()


def exact_nll(transformer, pictures):
    """NLL of each picture in nats per token that is asked for, by the definition."""
    batch = examples(transformer.config.shape, pictures)
    inputs, features = batch.tensors()
    kind = transformer.embedding.weight.dtype
    probabilities = transformer(inputs, None if features is None else features.to(kind)).softmax(-1)
    chosen = probabilities.gather(2, torch.from_numpy(pictures.tokens)[..., None])[..., 0]
    scored = torch.from_numpy(batch.scored)
    return -torch.stack([row[counted].log().mean() for row, counted in zip(chosen, scored, strict=True)])


def slope(transformer, pictures, scaled):
    """Mean over pictures of the central difference of the NLL when weights in `scaled(model)` are scaled together."""
    ends = []
    for factor in (1 + EPSILON, 1 - EPSILON):
        changed = copy.deepcopy(transformer).double()
        with torch.no_grad():
            for view in scaled(changed):
                view *= factor
            ends.append(exact_nll(changed, pictures))
    return float(((ends[0] - ends[1]) / (2 * EPSILON)).abs().mean())


def test_magnitude_of_a_head_is_the_norm_of_its_rows_and_columns(tiny_model):
    model = tiny_model().transformer
    attention = model.blocks[1].attention
    head = slice(16, 24)  # the third
    parts = [attention.query.weight[head], attention.key.weight[head], attention.value.weight[head]]
    expected = torch.cat([part.flatten() for part in [*parts, attention.output.weight[:, head]]]).norm()
    torch.testing.assert_close(magnitude(model, HEADS)[1][2], expected.detach())


def test_magnitude_of_a_key_value_head_counts_the_query_heads_that_read_it_and_their_biases(tiny_model):
    model = tiny_model(kv_heads=2, bias=True).transformer
    attention = model.blocks[0].attention
    queries, own = slice(16, 32), slice(8, 16)  # the second of two
    parts = [attention.query.weight[queries], attention.query.bias[queries], attention.output.weight[:, queries]]
    for linear in (attention.key, attention.value):
        parts += [linear.weight[own], linear.bias[own]]
    expected = torch.cat([part.flatten() for part in parts]).norm()
    scores = magnitude(model, HEADS)[0]
    assert scores.shape == (2,)
    torch.testing.assert_close(scores[1], expected.detach())


@pytest.mark.parametrize("changes", [{}, {"activation": "gelu", "bias": True}], ids=["swiglu", "gelu-bias"])
def test_magnitude_of_a_unit_is_the_norm_of_its_row_bias_and_column(tiny_model, changes):
    model = tiny_model(**changes).transformer
    ffn = model.blocks[0].ffn
    parts = [ffn.up.weight[5], ffn.down.weight[:, 5]]
    parts += [ffn.up.bias[5:6]] if changes else [ffn.gate.weight[5]]
    torch.testing.assert_close(magnitude(model, UNITS)[0][5], torch.cat(parts).norm().detach())


def test_taylor_of_a_head_is_the_slope_of_the_nll_as_its_output_columns_shrink(any_model, any_pictures):
    model = any_model.transformer
    scores = taylor(model, group_masks(model, HEADS), any_pictures, quiet)
    for index, layer in enumerate(model.config.layers):
        width = 8 * layer.heads // layer.kv_heads
        assert scores[index].shape == (layer.kv_heads,)
        for group in range(layer.kv_heads):
            columns = slice(group * width, (group + 1) * width)
            wanted = slope(
                model,
                any_pictures,
                lambda changed, index=index, columns=columns: [
                    changed.blocks[index].attention.output.weight[:, columns]
                ],
            )
            assert float(scores[index][group]) == pytest.approx(wanted, rel=1e-3)


def test_taylor_of_a_unit_is_the_slope_of_the_nll_as_its_down_column_shrinks(any_model, any_pictures):
    model = any_model.transformer
    scores = taylor(model, group_masks(model, UNITS), any_pictures, quiet)
    for unit in (0, 17, 39):
        wanted = slope(model, any_pictures, lambda changed, unit=unit: [changed.blocks[1].ffn.down.weight[:, unit]])
        assert float(scores[1][unit]) == pytest.approx(wanted, rel=1e-3, abs=1e-7)


def test_taylor_of_a_layer_is_the_slope_of_the_nll_as_both_its_branches_shrink(any_model, any_pictures):
    model = any_model.transformer
    scores = taylor(model, layer_masks(model), any_pictures, quiet)

    def branches(changed, index):
        exits = [changed.blocks[index].attention.output, changed.blocks[index].ffn.down]
        return [tensor for linear in exits for tensor in (linear.weight, linear.bias) if tensor is not None]

    for index in range(2):
        wanted = slope(model, any_pictures, lambda changed, index=index: branches(changed, index))
        assert float(scores[index]) == pytest.approx(wanted, rel=1e-3)


def test_taylor_does_not_depend_on_the_batches_and_reports_them(tiny_model, pictures, monkeypatch):
    model, seen = tiny_model().transformer, []
    masks = group_masks(model, HEADS)
    whole = taylor(model, masks, pictures, quiet)
    monkeypatch.setattr(importance, "BATCH", 2)
    parts = taylor(model, masks, pictures, lambda step, steps, values: seen.append((step, steps)))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_gates_are_gone_after_use_even_when_the_model_fails(tiny_model, pictures):
    model = tiny_model().transformer
    before = model(*given(model, pictures))
    masks = layer_masks(model)
    closed = [torch.zeros(5, 1)] * 2
    with masked_groups(model, masks, closed):
        inside = model(*given(model, pictures))
    torch.testing.assert_close(inside, model.logits(*model.prepare(*given(model, pictures))))
    with pytest.raises(RuntimeError, match="stop"), masked_groups(model, masks, closed):
        raise RuntimeError("stop")
    assert torch.equal(model(*given(model, pictures)), before)


def test_residual_updates_are_relative_to_the_stream_they_are_added_to(tiny_model, pictures):
    model = tiny_model().transformer
    x, around = model.prepare(*given(model, pictures))
    expected = []
    with torch.no_grad():
        for block in model.blocks:
            after = block(x, around, None)[0].numpy()
            before = x.detach().numpy()
            lengths = np.sqrt(((after - before) ** 2).sum(-1)) / np.sqrt((before**2).sum(-1))
            expected.append(lengths.mean())
            x = torch.from_numpy(after)
    np.testing.assert_allclose(residual_updates(model, pictures, quiet).numpy(), expected, rtol=1e-5)


def test_block_influence_is_one_minus_the_cosine_around_a_layer(tiny_model, pictures):
    model, expected = tiny_model(layers=3).transformer, []
    with torch.no_grad():
        x, around = model.prepare(*given(model, pictures))
        for block in model.blocks:
            made, _ = block(x, around, None)
            a, b = x.double().numpy(), made.double().numpy()
            cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
            expected.append(1 - cosine.mean())
            x = made
    np.testing.assert_allclose(influences(model, pictures, quiet).numpy(), expected, rtol=1e-4)


def test_removal_losses_are_the_nll_without_each_layer(tiny_model, pictures, monkeypatch):
    monkeypatch.setattr(importance, "BATCH", 2)  # the last batch is short and must weigh less
    model = tiny_model(layers=3).transformer
    expected = []
    with torch.no_grad():
        for left_out in (0, 2):
            x, around = model.prepare(*given(model, pictures))
            for index in (0, 2):
                if index != left_out:
                    x, _ = model.blocks[index](x, around, None)
            targets = torch.from_numpy(pictures.tokens)
            expected.append(functional.cross_entropy(model.logits(x, around).flatten(0, 1), targets.flatten()))
    torch.testing.assert_close(removal_losses(model, [0, 2], pictures, quiet), torch.stack(expected))


def test_nll_is_the_mean_of_minus_log_probability_of_what_is_asked_of_each_picture(any_model, any_pictures):
    model, pictures = any_model.transformer, any_pictures
    with torch.no_grad():
        torch.testing.assert_close(nll(model, examples(model.config.shape, pictures)), exact_nll(model, pictures))


def test_chunks_hold_every_picture_once_in_order(tiny_model, tiny_tokens):
    parts = [chunk.targets for chunk in chunks(tiny_model().transformer, tiny_tokens, quiet)]
    assert [len(part) for part in parts] == [32, 32, 32, 32]
    assert np.array_equal(np.concatenate(parts), tiny_tokens.tokens)

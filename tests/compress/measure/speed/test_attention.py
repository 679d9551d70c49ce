"""Times of attention alone: graphs of the deployed operators, which compute attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from compress.measure.speed import attention
from compress.measure.speed.attention import Attention, graph_of, milliseconds, runner
from compress.measure.speed.timing import Timings
from export.runtime.roofline import probe


@pytest.mark.parametrize(
    ("kernel", "operator"),
    [
        (Attention(4, 2, 16, rows=2, queries=1, positions=9), "GroupQueryAttention"),
        (Attention(4, 2, 4, rows=2, queries=1, positions=9), "Attention"),
        (Attention(4, 4, 16, rows=2, queries=9, positions=9), "Attention"),
    ],
)
def test_a_graph_holds_the_operator_of_fused_engines_once_for_each_layer(kernel, operator):
    graph = graph_of(kernel).graph
    assert [node.op_type for node in graph] == [operator] * attention.LAYERS
    runner(kernel, 1)()


def test_the_operator_attends_to_the_cache_and_to_itself():
    kernel = Attention(4, 2, 16, rows=2, queries=1, positions=9)
    session, generator = probe(graph_of(kernel), 1), np.random.default_rng(0)
    feeds = {
        each.name: generator.standard_normal(each.shape, dtype=np.float32)
        for each in session.get_inputs()
        if each.type == "tensor(float)"
    }
    feeds |= {"seen": np.full(2, 8, dtype=np.int32), "positions": np.array(9, dtype=np.int32)}
    (made,) = session.run(["mixed3"], feeds)
    query = torch.from_numpy(feeds["query"]).view(2, 1, 4, 16).transpose(1, 2)
    key, value = (
        torch.cat(
            [
                torch.from_numpy(feeds[f"past_{name}3"])[:, :, :8],
                torch.from_numpy(feeds[f"{name}3"]).view(2, 1, 2, 16).transpose(1, 2),
            ],
            dim=2,
        )
        for name in ("key", "value")
    )
    expected = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    np.testing.assert_allclose(made, expected.transpose(1, 2).flatten(2).numpy(), atol=1e-5)


def test_a_layers_time_is_its_graphs_divided_by_its_layers(monkeypatch):
    monkeypatch.setattr(attention, "paired", lambda runners, repeats: Timings(dict.fromkeys(runners, (0.008,) * 6)))
    kernel = Attention(2, 2, 16, rows=1, queries=1, positions=4)
    assert milliseconds([kernel, kernel], 1)[kernel].value == pytest.approx(8 / attention.LAYERS)

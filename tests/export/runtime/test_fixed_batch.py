"""A graph of a fixed batch draws and scores any number of pictures, in parts."""

from __future__ import annotations

import numpy as np
import pytest

from compress.passes.export import Export
from export.runtime.engine import Engine
from export.runtime.feeds import filled_up


def test_rows_are_filled_up_with_the_last_one() -> None:
    assert filled_up(np.array([[1], [2], [3]]), 2).tolist() == [[1], [2], [3], [3]]
    assert filled_up(np.array([[1], [2]]), 2).tolist() == [[1], [2]]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_fixed_batch_gives_the_logits_and_tokens_of_torch(tiny_model, context, tmp_path, target: str) -> None:
    model = tiny_model()
    Export(target, fixed_batch=3).run(model, context(model)).model.save(tmp_path)
    engine, labels = Engine.load(tmp_path, threads=1), np.arange(4, dtype=np.int64)
    tokens = model.draw_tokens(labels, seed=5)
    assert (engine.draw_tokens(labels, seed=5) == tokens).all()
    inputs = np.concatenate([labels[:, None] + model.vocabulary, tokens[:, :-1]], axis=1)
    for logits in (engine.score(inputs), engine.score_stepwise(inputs)):
        np.testing.assert_allclose(logits, model.score(inputs), atol=1e-5)

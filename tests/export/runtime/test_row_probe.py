"""An engine knows whether its logits depend on how many pictures are in a call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.runtime.batching import BatchingQueue
from export.runtime.row_probe import logits
from export.runtime.serving import Request, answers
from export.targets import fuse


@pytest.mark.parametrize("kind", ["grouped", "masked", "text"])
@pytest.mark.parametrize("guided", [False, True])
def test_float_logits_depend_on_no_neighbour(kind: str, guided: bool, exported, engine_of) -> None:
    engine = engine_of(exported(kind))
    assert not engine.rows_depend(guided)
    together = logits(engine, np.arange(3), guided)
    assert together.shape[:2] == (3, 2 if guided else 1)
    assert not np.array_equal(together[0], together[1])


def test_what_a_manifest_says_to_round_by_the_whole_call_depends(exported, engine_of) -> None:
    model = exported("grouped")
    engine = engine_of(replace(model, manifest=replace(model.manifest, call_scaled=True)))
    assert engine.rows_depend(True)
    assert engine.probed == {}


def test_unguided_requests_whose_kernels_differ_by_rows_are_drawn_as_alone(exported, engine_of) -> None:
    """Whatever the kernels of this machine do, the pictures are those of `generate`."""
    engine = engine_of(fuse(exported("int8 dynamic")).model)
    requests = [Request.of(engine, [seed % 10], [seed], {"cfg_scale": 1.0}) for seed in range(40)]
    wanted = [engine.generate([seed % 10], seed, cfg_scale=1.0) for seed in range(40)]
    with BatchingQueue(engine, deadline_s=60, most_batch=7) as queue:
        futures = [queue.submit(request) for request in requests]
    assert all((future.result(0) == each).all() for future, each in zip(futures, wanted, strict=True))
    assert all((found == each).all() for found, each in zip(answers(engine, requests), wanted, strict=True))


def test_a_logit_that_differs_in_one_bit_is_noticed(exported, engine_of, monkeypatch) -> None:
    engine = engine_of(exported("grouped"))

    def nudged(engine, pictures, guided):
        found = np.ones((len(pictures), 1, 2, 3), dtype=np.float32)
        if len(pictures) == 3:
            found[2, 0, 1, 1] = np.nextafter(np.float32(1), np.float32(2))
        return found

    monkeypatch.setattr("export.runtime.row_probe.logits", nudged)
    assert engine.rows_depend(False)
    assert engine.probed == {False: True}

"""Batches are as large as memory allows, and pictures are the same whatever their size."""

from __future__ import annotations

import numpy as np
import pytest

from export.runtime import throughput
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape
from export.runtime.throughput import batch_size, check_batch, check_pictures, draw_in_batches, free_bytes

CAUSAL = Shape("causal", 1000, 2, (4, 4))
MASKED = Shape("masked", 1000, 2, (4, 4))


@pytest.mark.parametrize(
    ("shape", "guided", "free", "wanted"),
    [
        # a causal row: 8,000 of cache and 3 * 4 * 1,000 for logits; half of what is free may be taken
        (CAUSAL, False, 2 * 20_000 * 7 + 1, 7),
        (CAUSAL, True, 2 * 20_000 * 7 + 1, 3),
        (CAUSAL, False, 10**12, 32),
        (CAUSAL, False, 10, 1),
        # all 16 positions of a masked one have logits: 8,000 + 192,000
        (MASKED, False, 2 * 200_000 * 3, 3),
        (MASKED, False, 10**12, 4),
    ],
)
def test_half_of_the_free_memory_is_taken_and_no_more_than_shares_the_weights(
    shape, guided, free, wanted, monkeypatch
) -> None:
    monkeypatch.setattr(throughput, "free_bytes", lambda: free)
    assert batch_size(shape, Sampler(cfg_scale=2.0 if guided else 1.0), 8_000) == wanted


def test_more_pictures_at_once_than_fit_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(throughput, "free_bytes", lambda: 10_000_000)
    check_batch(CAUSAL, Sampler(), 8_000, 500)
    with pytest.raises(ValueError, match="batch 501") as error:
        check_batch(CAUSAL, Sampler(), 8_000, 501)
    assert str(error.value) == (
        "batch 501: so many pictures at once take about 0.01 GB of memory, and 0.01 GB are free; at most 500 fit"
    )
    with pytest.raises(ValueError, match=r"take about more than 1e\+15 GB of memory"):
        check_batch(CAUSAL, Sampler(), 8_000, 10**400)


def test_more_pictures_than_fit_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(throughput, "free_bytes", lambda: 10_000_000)
    check_pictures((10, 10, 1), 32_467)  # three copies of 100 bytes, and 8 of a label
    with pytest.raises(ValueError, match="32468 pictures") as error:
        check_pictures((10, 10, 1), 32_468)
    assert str(error.value) == (
        "32468 pictures take about 0.01 GB of memory, and 0.01 GB are free; draw at most 32467 in one call"
    )


def test_a_batch_beyond_the_pictures_asked_for_is_no_more_than_these(exported, engine_of) -> None:
    assert len(engine_of(exported("rotary")).generate([1, 2], batch=10**20)) == 2


def test_free_memory_is_what_the_system_says(monkeypatch, tmp_path) -> None:
    assert 2**20 < free_bytes() < 2**50
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  9 kB\nMemAvailable:   123 kB\n")
    monkeypatch.setattr(throughput, "MEMINFO", file)
    assert free_bytes() == 123 * 1024
    monkeypatch.setattr(throughput, "MEMINFO", tmp_path / "none")
    assert free_bytes() > 2**20


@pytest.mark.parametrize("kind", ["rotary", "masked", "next-scale"])
def test_pictures_do_not_depend_on_the_size_of_the_batches(kind, exported, engine_of, model_of) -> None:
    labels, sampler = np.arange(5), Sampler(cfg_scale=2.0, temperature=1.5, steps=4)
    for drawing in (engine_of(exported(kind)), model_of(kind)):
        calls: list[tuple[int, int]] = []
        parts = list(
            draw_in_batches(drawing, labels, 3, sampler, batch=2, report=lambda *done, calls=calls: calls.append(done))
        )
        assert [len(part) for part in parts] == [2, 2, 1]
        assert calls == [(2, 5), (4, 5), (5, 5)]
        (whole,) = draw_in_batches(drawing, labels, 3, sampler, batch=5)
        assert (np.concatenate(parts) == whole).all()


def test_an_engine_generates_in_batches_and_says_how_far_it_is(exported, engine_of) -> None:
    engine, calls = engine_of(exported("rotary")), []
    pictures = engine.generate(np.arange(3), seed=1, batch=1, report=lambda *done: calls.append(done))
    assert (pictures == engine.generate(np.arange(3), seed=1)).all()
    assert calls == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match="batch -1: must be at least 0"):
        engine.generate([0], batch=-1)
    with pytest.raises(ValueError, match="label 99 is not a class"):
        engine.generate([0, 99], batch=1)
    assert engine.cache_bytes == 2 * sum(engine.manifest.kv_heads) * engine.shape.reach * 16 * 4

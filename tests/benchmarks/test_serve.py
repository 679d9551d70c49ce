"""The load test of the service sends what it says, and knows a wrong picture."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_engine import Fake

uvicorn = pytest.importorskip("uvicorn")
from compress.serving.app import Service, app_of  # noqa: E402
from compress.serving.server import bound, url  # noqa: E402
from compress.serving.settings import Settings  # noqa: E402

SPEC = importlib.util.spec_from_file_location("serve", Path(__file__).parents[2] / "benchmarks" / "serve.py")
assert SPEC is not None
assert SPEC.loader is not None
serve = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # where its dataclasses look for their types
SPEC.loader.exec_module(serve)


@pytest.fixture
def address() -> Iterator[str]:
    """A service of an engine whose pictures are label and seed, with a queue of 4."""
    engine = Fake()
    engine.gate.set()
    application = app_of(Service(engine, Settings(deadline_s=0.02, capacity=4)))  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    with bound("127.0.0.1", 0) as listener:
        found = url(listener)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        while not server.started:
            time.sleep(0.01)
        yield found
        server.should_exit = True
        running.join(10)


def test_every_answer_is_compared_with_the_picture_drawn_alone(address: str) -> None:
    expected = {(label, 7): np.array([[[label], [7]]], dtype=np.uint8) for label in range(3)}
    loads = [serve.loaded(address, expected, 40.0, 0.25, seed) for seed in range(2)]
    found = serve.row(40.0, loads, expected)
    assert found.requests == found.answered + found.refused
    assert 5 < found.requests < 40
    assert (found.failed, found.wrong) == (0, 0)
    assert 20 < found.p50_ms <= found.p95_ms <= found.p99_ms
    assert 1 <= found.mean_batch <= 4
    expected = {job: picture + 1 for job, picture in expected.items()}
    found = serve.row(40.0, loads, expected)
    assert found.wrong == found.answered > 0
    assert serve.table([found]).count("\n") == 2

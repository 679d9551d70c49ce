"""The service answers with the engine's pictures, or with a status and one line, and counts what it did."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fake_engine import Fake
from PIL import Image

from compress.serving import app as application
from compress.serving.app import Service, app_of
from compress.serving.settings import Settings
from export.runtime.shape import Shape

testclient = pytest.importorskip("starlette.testclient")
TestClient = testclient.TestClient


@dataclass
class Running:
    """A service, its engine and a client of it."""

    service: Service
    engine: Fake
    client: Any

    def ask(self, given: Any, **headers: str) -> Any:
        return self.client.post("/generate", json=given, headers=headers)

    def busy(self) -> None:
        """Let the one worker draw until the gate opens."""
        self.engine.gate.clear()
        self.service.queue.submit(self.engine.asked(9))
        assert self.engine.begun.acquire(timeout=10)

    def count(self, name: str, **labels: str) -> float | None:
        return self.service.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def started() -> Iterator[Callable[..., Running]]:
    """A factory of services: `started(timeout_s=0.1)`, with an open gate."""
    with ExitStack() as stack:

        def start(shape: Shape | None = None, **settings: Any) -> Running:
            engine = Fake(shape=shape) if shape else Fake()
            engine.gate.set()
            service = Service(engine, Settings(**{"deadline_s": 0, **settings}))  # type: ignore[arg-type]
            client = stack.enter_context(TestClient(app_of(service), raise_server_exceptions=False))
            stack.callback(engine.gate.set)
            return Running(service, engine, client)

        yield start


def pixels(data: bytes) -> list[int]:
    return np.asarray(Image.open(io.BytesIO(data))).ravel().tolist()


def test_json_has_the_pictures_and_what_makes_them_again(started) -> None:
    answer = started().ask({"label": 3, "seed": 7, "count": 2})
    assert answer.status_code == 200
    found = answer.json()
    assert [pixels(base64.b64decode(each)) for each in found.pop("pictures")] == [[3, 7], [3, 7]]
    assert found.pop("seconds") > 0
    assert found == {"label": 3, "name": "3", "seed": 7}


def test_a_png_has_them_in_its_headers(started) -> None:
    shape = Shape("causal", vocabulary=256, classes=2, grid=(1, 2), class_names=("cat", "dog"))
    answer = started(shape).ask({"label": "dog", "seed": 7}, accept="image/png")
    assert pixels(answer.content) == [1, 7]
    assert (answer.headers["content-type"], answer.headers["x-label"], answer.headers["x-seed"]) == (
        "image/png",
        "1",
        "7",
    )


def test_requests_that_come_together_are_drawn_together(started) -> None:
    running = started(deadline_s=30, batch=3)
    for label in range(2):
        running.service.queue.submit(running.engine.asked(label))
    assert running.ask({"label": 5}).status_code == 200
    assert running.engine.labels == [[0, 1, 5]]
    assert running.count("compress_batch_pictures_sum") == 3


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({"json": {"label": 30}}, 422, "label 30: must be at most 10"),
        ({"json": {"label": 3, "count": 17}}, 422, "count 17: must be at most 16"),
        ({"content": b"{", "headers": {"content-type": "application/json; charset=utf-8"}}, 400, "body:1:2: not valid"),
        ({"content": b"{}"}, 415, "Content-Type: a request is application/json"),
        ({"json": {}, "headers": {"accept": "text/html"}}, 406, "Accept: an answer is application/json or image/png"),
        ({"json": {"label": "x" * 20_000}}, 413, "body: too large; at most 16384 bytes are read"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_one_line(sent: Any, status: int, said: str, started) -> None:
    running = started()
    answer = running.client.post("/generate", **sent)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(said)
    assert running.engine.labels == []
    assert running.count("compress_requests_total", outcome="invalid") == 1


def test_paths_and_methods_that_there_are_not_are_said_as_json(started) -> None:
    client = started().client
    assert client.get("/nothing").json() == {"error": "GET /nothing: Not Found"}
    answer = client.get("/generate")
    assert (answer.status_code, answer.json()) == (405, {"error": "GET /generate: Method Not Allowed"})
    assert answer.headers["allow"] == "POST"


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(started) -> None:
    running = started(capacity=1)
    running.busy()
    running.service.picture_s = 2.5
    assert running.client.get("/ready").json() == {"status": "ready"}
    running.service.queue.submit(running.engine.asked(1))
    answer = running.ask({"label": 2})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert answer.json() == {"error": "the queue is full: 1 of at most 1 pictures wait; try again later"}
    ready = running.client.get("/ready")
    assert (ready.status_code, ready.json(), ready.headers["retry-after"]) == (503, {"error": "the queue is full"}, "3")
    assert running.client.get("/health").json() == {"status": "ok"}
    assert running.count("compress_requests_total", outcome="full") == 1
    assert running.count("compress_queue_pictures") == 1
    assert running.ask({"label": 2, "count": 2}).json() == {
        "error": "2 pictures: at most 1 may wait; ask for fewer at a time"
    }


def test_a_request_whose_time_is_up_is_not_drawn(started) -> None:
    running = started(timeout_s=0.1)
    running.busy()
    answer = running.ask({"label": 2})
    assert (answer.status_code, answer.json()) == (504, {"error": "not drawn within 0.1 s"})
    assert running.service.queue.depth == 0
    running.engine.gate.set()
    running.service.queue.close()
    assert running.engine.labels == [[9]]
    assert running.count("compress_requests_total", outcome="timeout") == 1


def test_a_client_that_goes_takes_its_request_along(started) -> None:
    running = started()
    running.busy()
    body = json.dumps({"label": 2}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/generate", "query_string": b"", "root_path": ""}
    scope["headers"] = [(b"content-type", b"application/json")]
    asyncio.run(app_of(running.service)(scope, receive, send))
    assert running.service.queue.depth == 0
    assert running.count("compress_requests_total", outcome="abandoned") == 1
    assert sent[0]["status"] == 499


def test_a_body_that_does_not_arrive_is_not_waited_for(started, monkeypatch) -> None:
    monkeypatch.setattr(application, "BODY_S", 0.05)
    running = started()

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    async def ask() -> Any:
        import httpx2

        transport = httpx2.ASGITransport(app_of(running.service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/generate", content=slow(), headers={"content-type": "application/json"})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (408, {"error": "body: did not arrive within 0.05 s"})


def test_an_engine_that_fails_is_an_error_of_the_service(started, caplog) -> None:
    running = started()
    running.engine.broken = {3}
    answer = running.ask({"label": 3})
    assert (answer.status_code, answer.json()) == (500, {"error": "label is broken"})
    assert "label is broken" in caplog.text
    running.engine.broken = None  # type: ignore[assignment]
    answer = running.ask({"label": 3})
    assert answer.status_code == 500
    assert answer.json() == {"error": "unexpected TypeError; the log of the service has the details"}
    assert running.count("compress_requests_total", outcome="failed") == 2
    assert running.service.queue.threads == 0


def test_a_service_that_is_stopped_finishes_what_it_accepted_and_takes_no_more(started) -> None:
    running = started(deadline_s=30)
    future = running.service.queue.submit(running.engine.asked(4))
    running.service.queue.close()
    assert future.done()
    answer = running.ask({"label": 3})
    assert (answer.status_code, answer.json()) == (503, {"error": "the service is being stopped"})
    assert running.client.get("/ready").status_code == 503
    assert running.count("compress_requests_total", outcome="stopping") == 1


def test_the_metrics_are_what_prometheus_reads(started) -> None:
    running = started()
    running.ask({"label": 3, "count": 2})
    answer = running.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    assert 'compress_requests_total{outcome="ok"} 1.0' in lines
    assert 'compress_requests_total{outcome="full"} 0.0' in lines
    assert "compress_pictures_total 2.0" in lines
    assert 'compress_request_seconds_count{outcome="ok"} 1.0' in lines
    assert 'compress_batch_pictures_bucket{le="2.0"} 1.0' in lines
    assert "compress_queue_pictures 0.0" in lines
    assert 'compress_engine_info{family="none",name="fake",target="tests"} 1.0' in lines


def test_the_engine_says_what_can_be_asked_of_it(started) -> None:
    found = started(most_pictures=8, capacity=4).client.get("/engine").json()
    assert found["picture"] == {"height": 1, "width": 2, "channels": 1}
    assert (found["classes"], found["class_names"], found["text"], found["most_pictures"]) == (10, [], None, 4)
    # steps and reveal are of masked models, guidance is of those that are drawn with some
    assert list(found["sampling"]) == ["cfg_scale", "temperature", "end_temperature", "top_k", "top_p"]


def test_the_page_loads_nothing_from_elsewhere(started) -> None:
    client = started().client
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer = client.get(path)
        assert answer.headers["content-type"].startswith(kind)
        assert "://" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]

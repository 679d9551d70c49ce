"""The service as an ASGI application: its routes, and how a request for pictures goes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from compress.serving.answers import JSON, PNG, as_json, chosen, png
from compress.serving.asked import SETTINGS, Asked, largest_body, read
from compress.serving.metrics import Metrics
from compress.serving.refusals import Outcome, RefusedError
from compress.serving.settings import LOG, Settings
from export.runtime.batching import Batch, BatchingQueue
from export.runtime.counted import counted
from export.runtime.drawing import conditions
from export.runtime.engine import Engine
from export.runtime.errors import EngineError, QueueClosedError, QueueFullError
from export.runtime.heeded import ignored

log = logging.getLogger(LOG)

BODY_S = 10.0  # within which a body has to arrive
LONGEST_RETRY_S = 60
CLOSED_BY_CLIENT = 499  # nginx's number; nobody reads it
PAGE = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Service:
    """An engine behind a queue, and what its routes answer."""

    def __init__(
        self, engine: Engine, settings: Settings, on_request: Callable[[str], None] = lambda line: None
    ) -> None:
        self.engine, self.settings, self.on_request, self.picture_s = engine, settings, on_request, 0.0
        self.requests = self.pictures = 0  # that were answered
        self.queue = BatchingQueue(
            engine,
            most_batch=settings.batch,
            deadline_s=settings.deadline_s,
            capacity=settings.capacity,
            workers=settings.workers,
            on_batch=self.drew,
        )
        self.metrics = Metrics(engine.manifest, lambda: self.queue.depth, settings.capacity)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Warm up before the first request, and in the end finish what was accepted."""
        await to_thread.run_sync(self.warm_up)
        yield
        await to_thread.run_sync(self.queue.close)

    def warm_up(self) -> None:
        """Draw once, and find out what may be drawn together."""
        labels, features = conditions(self.engine.shape, 1)
        self.engine.generate(labels, features=features)
        for guided in (False, True):
            self.engine.rows_depend(guided)

    def drew(self, batch: Batch) -> None:
        """Count a batch, and remember how fast pictures come."""
        self.metrics.batch(batch)
        self.picture_s = batch.seconds / batch.pictures

    async def generate(self, request: Request) -> Response:
        """Pictures, or one line that says why there are none."""
        started, count = time.monotonic(), 0
        outcome: Outcome = "failed"
        try:
            kind = chosen(request.headers.get("accept", ""))
            if kind is None:
                raise RefusedError(406, f"Accept: an answer is {JSON} or {PNG}")
            asked = read(await self.body(request), self.engine, self.settings.most_pictures)
            pictures = await self.drawn(request, asked, started)
            made = await to_thread.run_sync(self.answer, kind, pictures, asked, started)
            outcome, count = "ok", len(pictures)
            return made
        except RefusedError as refused:
            outcome = refused.outcome
            return refusal(refused)
        finally:
            self.requests, self.pictures = self.requests + 1, self.pictures + count
            seconds = time.monotonic() - started
            self.metrics.request(outcome, seconds, count)
            client = request.client.host if request.client else "?"
            self.on_request(f"{client}: {outcome}, {counted(count, 'picture')}, {seconds:.3f} s")

    async def body(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            RefusedError: it is not JSON, too large, or does not arrive.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise RefusedError(415, f"Content-Type: a request is {JSON}")
        most, found = largest_body(self.engine.shape), bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    found += part
                    if len(found) > most:
                        raise RefusedError(413, f"body: too large; at most {most} bytes are read")
        except TimeoutError as error:
            raise RefusedError(408, f"body: did not arrive within {BODY_S:g} s", "timeout") from error
        except ClientDisconnect as error:
            raise abandoned() from error
        return bytes(found)

    async def drawn(self, request: Request, asked: Asked, started: float) -> NDArray[np.uint8]:
        """The pictures (n, H, W, C); what still waits when nobody wants them any more is not drawn.

        Raises:
            RefusedError: the queue is full or closed, time is up, or the client is gone.
        """
        future = self.submitted(asked)
        drawing, gone = asyncio.wrap_future(future), asyncio.ensure_future(disconnected(request))
        try:
            left = max(0.0, started + self.settings.timeout_s - time.monotonic())
            either: set[asyncio.Future[Any]] = {drawing, gone}
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                return drawing.result()
            if gone.done():
                raise abandoned()
            raise RefusedError(504, f"not drawn within {self.settings.timeout_s:g} s", "timeout", self.retry_s)
        except EngineError as error:
            log.error("%s", error)
            raise RefusedError(500, str(error), "failed") from error
        finally:
            gone.cancel()
            drawing.cancel()
            future.cancel()

    def submitted(self, asked: Asked) -> Future[NDArray[np.uint8]]:
        """The pictures to come.

        Raises:
            RefusedError: the queue is full or closed, or so many may never wait.
        """
        try:
            return self.queue.submit(asked.request)
        except QueueFullError as error:
            raise RefusedError(503, str(error), "full", self.retry_s) from error
        except QueueClosedError as error:
            raise RefusedError(503, "the service is being stopped", "stopping", self.retry_s) from error
        except ValueError as error:
            raise RefusedError(422, str(error)) from error

    @property
    def retry_s(self) -> int:
        """Seconds until what waits now should be drawn."""
        waiting = self.queue.depth * self.picture_s / self.settings.workers
        return min(max(math.ceil(waiting), 1), LONGEST_RETRY_S)

    def answer(self, kind: str, pictures: NDArray[np.uint8], asked: Asked, started: float) -> Response:
        """Pictures as an answer of a media type."""
        seconds = time.monotonic() - started
        if kind == JSON:
            return JSONResponse(as_json(pictures, asked, self.engine.shape, seconds))
        headers = {"X-Label": str(asked.label), "X-Seed": str(asked.seed), "X-Seconds": f"{seconds:.6f}"}
        return Response(png(pictures), media_type=PNG, headers=headers)

    async def health(self, request: Request) -> Response:
        """The process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether a request would be accepted now."""
        if self.queue.closed:
            return refusal(RefusedError(503, "the service is being stopped", retry_s=self.retry_s))
        if self.queue.depth >= self.settings.capacity:
            return refusal(RefusedError(503, "the queue is full", retry_s=self.retry_s))
        return JSONResponse({"status": "ready"})

    async def counts(self, request: Request) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def described(self, request: Request) -> Response:
        """The engine, for clients and for the page."""
        return JSONResponse(description(self.engine, self.settings))

    async def page(self, request: Request) -> Response:
        """The page, its style or its script."""
        name = request.url.path.rpartition("/")[2]
        file = resources.files("compress.serving").joinpath(name or "page.html")
        return Response(file.read_bytes(), media_type=PAGE[name], headers=HEADERS)


def app_of(service: Service) -> Starlette:
    """The application that answers for a service."""
    routes = [
        Route("/generate", service.generate, methods=["POST"]),
        Route("/health", service.health),
        Route("/ready", service.ready),
        Route("/metrics", service.counts),
        Route("/engine", service.described),
        *(Route(f"/{name}", service.page) for name in PAGE),
    ]
    handlers: Any = {HTTPException: no_route, Exception: unexpected}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)


def description(engine: Engine, settings: Settings) -> dict[str, Any]:
    """What can be asked of an engine: its classes, the settings that it heeds with its own values, and the limits."""
    shape, height, width, channels = engine.shape, *engine.picture
    unheeded = ignored(shape, engine.sampler)
    return {
        "name": engine.manifest.name,
        "family": engine.manifest.family,
        "picture": {"height": height, "width": width, "channels": channels},
        "classes": 0 if shape.text else shape.classes,
        "class_names": list(shape.class_names),
        "text": None if shape.text is None else {"length": shape.text.length, "width": shape.text.width},
        "sampling": {name: getattr(engine.sampler, name) for name in SETTINGS if name not in unheeded},
        "most_pictures": min(settings.most_pictures, settings.capacity),
        "timeout_s": settings.timeout_s,
    }


async def disconnected(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def abandoned() -> RefusedError:
    """The answer to a client that is gone."""
    return RefusedError(CLOSED_BY_CLIENT, "the client is gone", "abandoned")


def refusal(refused: RefusedError) -> Response:
    """The line as JSON."""
    return JSONResponse({"error": refused.text}, refused.status, refused.headers)


def no_route(request: Request, error: HTTPException) -> Response:
    """A path or method that there is not, as JSON."""
    return JSONResponse(
        {"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code, error.headers
    )


def unexpected(request: Request, error: Exception) -> Response:
    """A fault of the service; uvicorn logs the details."""
    return JSONResponse({"error": f"unexpected {type(error).__name__}; the log of the service has the details"}, 500)

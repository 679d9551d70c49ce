"""The HTTP server: listens before the engine is opened, stops on a signal, and finishes what it accepted."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from compress.core.settings import InputError

if TYPE_CHECKING:
    from compress.serving.app import Service
    from compress.serving.settings import Settings
    from export.runtime.engine import Engine

INSTALL = "pip install 'prometheus-client>=0.26' 'starlette>=1.10' 'uvicorn>=0.54'"
SENDING_S = 5  # for an answer to arrive, when the service stops
STOPPING = (signal.SIGINT, signal.SIGTERM)


def require() -> None:
    """See that the libraries of the extra `serve` are there.

    Raises:
        InputError: one is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"serve needs an HTTP server ({error}); {INSTALL}") from error


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address, 0 for a port that is free; connections are refused until the server runs.

    Raises:
        InputError: there is no such address here, or it is taken.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, number)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except (OSError, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise InputError(f"--host {host} --port {port}: {text}; name another address or port") from error
    return made


def url(listener: socket.socket) -> str:
    """Where a browser finds the page."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    engine: Engine,
    settings: Settings,
    listener: socket.socket,
    on_start: Callable[[], None],
    on_request: Callable[[str], None] = lambda line: None,
) -> Service:
    """Serve an engine until a signal stops it, and finish what was accepted; what was served.

    `on_start` is called when requests are accepted, `on_request` with a line of each that was answered. A second signal
    ends it without waiting for open connections.
    """
    import uvicorn

    from compress.serving.app import BODY_S, Service, app_of

    class Server(uvicorn.Server):
        """Uvicorn's, which tells when it has started, and for which a signal is the usual end."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            def stop(number: int, frame: FrameType | None) -> None:
                self.force_exit, self.should_exit = self.should_exit, True

            before = {number: signal.signal(number, stop) for number in STOPPING}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    service = Service(engine, settings, on_request)
    config = uvicorn.Config(
        app_of(service), log_level="warning", access_log=False, server_header=False, lifespan="on", ws="none",
        timeout_graceful_shutdown=math.ceil(BODY_S + settings.timeout_s + SENDING_S),
    )  # fmt: skip
    server = Server(config)
    server.run(sockets=[listener])
    if server.force_exit:
        service.queue.close(cancel=True)
    return service

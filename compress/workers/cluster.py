"""Workers of a Ray cluster: an actor each, which Ray places on a machine with free processors."""

from __future__ import annotations

import logging
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from compress.core.settings import InputError, one_line
from compress.workers.crew import Done, Failed, Function, LostError, Maker, Say, Worker, attempted, said_of, unheard
from compress.workers.versions import versions

WAIT_S = 1.0
REACHED_S = 5.0  # a cluster that does not answer in this time is unreachable
ASKED_S = 10.0  # between questions how many processors the cluster has
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # Ray would report statistics of its use to its makers
CLIENT = "ray://"
ADDRESS = "RAY_ADDRESS"  # where Ray says which cluster this machine belongs to
MODE = "RAY_AUTH_MODE"
MISSING = "--on ray: Ray is not installed; pip install 'ray[client]>=2.60'"


@contextmanager
def cluster(address: str, make: Maker, threads: int, heard: Say = unheard) -> Iterator[RayCrew]:
    """The workers of a cluster, ``ray://HOST:PORT``, or of the one that this machine belongs to or else is alone.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    before = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ImportError:
        raise InputError(MISSING) from None
    own = not ray.is_initialized()
    try:
        if own:
            if (known := address or os.environ.get(ADDRESS, "")) and known not in ("auto", "local"):
                check_reached(known)
            ray.init(address or None, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--on {address or 'ray'}: no cluster answers ({one_line(said_of(error))})") from error
    finally:
        if before is not None and signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end this process without a word
    crew = None
    try:
        crew = RayCrew(ray, make, threads, heard)
        yield crew
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise InputError(
            f"--on {address or 'ray'}: the cluster is gone ({one_line(said_of(error))}); what was finished is kept, "
            f"start it again and run the same command"
        ) from error
    finally:
        if own:
            ray.shutdown()
        elif crew is not None:
            crew.close()


def check_reached(address: str) -> None:
    """Refuse an address that nothing answers at; Ray itself would try for minutes, or for ever.

    Raises:
        InputError: nothing does.
    """
    import grpc
    from ray.core.generated.ray_client_pb2 import ClusterInfoRequest, ClusterInfoType
    from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

    options = [("grpc.enable_http_proxy", 0)]  # as Ray does
    with grpc.insecure_channel(address.removeprefix(CLIENT), options) as channel:
        try:
            if address.startswith(CLIENT):
                RayletDriverStub(channel).ClusterInfo(ClusterInfoRequest(type=ClusterInfoType.PING), timeout=REACHED_S)
            else:
                grpc.channel_ready_future(channel).result(timeout=REACHED_S)
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                check_token(address)
                return
            raise InputError(
                f"--on {address}: no cluster answers within {REACHED_S:g} s; start one with  ray start --head  and "
                f"give its client port, 10001 unless it was changed"
            ) from None


def check_token(address: str) -> None:
    """Refuse a cluster with a token if Ray was not told to use one: it would try without for half a minute.

    Raises:
        InputError: it was not.
    """
    if os.environ.get(MODE) != "token":
        raise InputError(
            f"--on {address}: the cluster wants a token; copy ~/.ray/auth_token from its head to this machine and set "
            f"{MODE}=token"
        )


class Post:
    """Words of workers on their way, until whoever handed out the tasks asks for them."""

    def __init__(self) -> None:
        self.words: list[Any] = []

    def put(self, content: Any) -> None:
        """Keep one."""
        self.words.append(content)

    def take(self) -> list[Any]:
        """All that came since."""
        words, self.words = self.words, []
        return words


class Remote:
    """What a worker of a cluster does."""

    def __init__(self, post: Any) -> None:
        self.function: Function | None = None
        self.post = post

    def say(self, content: Any) -> None:
        """Put a word into the post, before the task goes on, so that no reply is ahead of it."""
        import ray

        with suppress(ray.exceptions.RayError):  # a word that is lost is no reason to fail
            ray.get(self.post.put.remote(content))

    def begin(self, make: Maker) -> tuple[Done | Failed, str]:
        """Make the function; the versions of the libraries here, and which machine and process this is."""

        def start() -> dict[str, str]:
            self.function = make(self.say if self.post is not None else unheard)
            return versions()

        return attempted(start), f"{platform.node()}, process {os.getpid()}"

    def do(self, argument: Any) -> Done | Failed:
        """Do one task."""
        function = self.function
        assert function is not None
        return attempted(lambda: function(argument))


class RayCrew:
    """As many actors as the cluster has processors for, also those of machines that join it later."""

    def __init__(self, ray: Any, make: Maker, threads: int, heard: Say = unheard) -> None:
        self.ray, self.threads, self.heard = ray, threads, heard
        self.post = None
        if heard is not unheard:
            self.post = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Post).remote()
        self.make = ray.put(make)  # once for each machine, not for each worker
        self.actor = ray.remote(num_cpus=threads, max_restarts=0, max_task_retries=0)(Remote)
        self.numbers = count(1)
        self.asked_at, self.found = -ASKED_S, 0

    @property
    def size(self) -> int:
        """As `Crew` says."""
        if time.monotonic() - self.asked_at >= ASKED_S:
            self.found = max(1, int(self.ray.cluster_resources().get("CPU", 0)) // self.threads)
            self.asked_at = time.monotonic()
        return self.found

    def start(self) -> Worker:
        """As `Crew` says."""
        return RayWorker(self.ray, next(self.numbers), self.actor.remote(self.post), self.make)

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """As `Crew` says."""
        answers = {worker.answer: worker for worker in workers if isinstance(worker, RayWorker)}
        self.ray.wait(list(answers), num_returns=1, timeout=WAIT_S, fetch_local=False)
        there, _ = self.ray.wait(list(answers), num_returns=len(answers), timeout=0, fetch_local=False)
        if self.post is not None:
            for content in self.ray.get(self.post.take.remote()):
                self.heard(content)
        return [answers[answer] for answer in there]

    def close(self) -> None:
        """End what is no worker, in a cluster that goes on."""
        if self.post is not None:
            self.ray.kill(self.post)


class RayWorker:
    """An actor, and what it was asked last."""

    def __init__(self, ray: Any, number: int, actor: Any, make: Any) -> None:
        self.ray, self.actor, self.number = ray, actor, number
        self.name = f"worker {number}"
        self.answer = actor.begin.remote(make)

    def send(self, argument: Any) -> None:
        """As `Worker` says."""
        self.answer = self.actor.do.remote(argument)

    def reply(self) -> Done | Failed:
        """As `Worker` says."""
        try:
            said = self.ray.get(self.answer)
        except self.ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise LostError(f"was lost ({one_line(lines[-1] if lines else type(error).__name__)})") from error
        if isinstance(said, tuple):
            said, place = said
            self.name = f"worker {self.number} ({place})"
        return said  # type: ignore[no-any-return]

    def stop(self) -> None:
        """As `Worker` says."""
        self.ray.kill(self.actor)

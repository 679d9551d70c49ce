"""What a store elsewhere costs: `python benchmarks/store.py s3://bucket/prefix`.

Times publishing an artifact, fetching it on another machine (another cache folder), finding it again where it was
fetched before, and the lease around it; beside a store in a folder of this machine. Without a URL a server of S3's
protocol is started here (moto), which keeps objects in memory. Medians of the rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.core.locks import EXCLUSIVE
from compress.core.store import Store

SIZES_MB = (0.1, 1, 10, 100)
ROUNDS = 5
FILES = 3  # of an artifact: weights, a graph, a manifest


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    before = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - before)


def writer(size_bytes: int) -> Callable[[Path], dict[str, Any]]:
    """What makes an artifact of so many random bytes."""

    def write(folder: Path) -> dict[str, Any]:
        for number in range(FILES):
            (folder / str(number)).write_bytes(os.urandom(size_bytes // FILES))
        return {}

    return write


def measured(place: str, room: Path, size_bytes: int) -> dict[str, float]:
    """Milliseconds of each kind, for one artifact that is new."""
    key, write, found = uuid.uuid4().hex, writer(size_bytes), {}

    def machine(name: str) -> Store:
        os.environ["XDG_CACHE_HOME"] = str(room / name)
        return Store(place).prepare()

    def silent(text: str) -> None:
        """Say nothing."""

    first, second = machine(f"{key}-a"), machine(f"{key}-b")
    draw = timed(lambda: writer(size_bytes)(Path(tempfile.mkdtemp(dir=room))))
    found["make and publish"] = timed(lambda: first.make(key, {"pass": "benchmark"}, write, silent)) - draw
    found["fetch"] = timed(lambda: second.make(key, {"pass": "benchmark"}, write, silent))
    second.release()
    found["find again"] = timed(lambda: second.make(key, {"pass": "benchmark"}, write, silent))
    with second.locked("warm", silent):
        pass
    with_lock = second.backend.lock("other")
    found["take and give back a lease"] = timed(lambda: (with_lock.take(EXCLUSIVE, wait=None), with_lock.release()))
    for store in (first, second):
        store.release()
    first.collect(0)
    return found


@contextmanager
def server() -> Iterator[str]:
    """A server of S3's protocol with an empty bucket; the URL of a store in it."""
    import botocore.session
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    botocore.session.Session().create_client("s3").create_bucket(Bucket="benchmark")
    try:
        yield "s3://benchmark/store"
    finally:
        started.stop()


def table(place: str, room: Path) -> None:
    """Print what was measured of one place."""
    print(f"\n{place}\n| Artifact | " + " | ".join(("make and publish", "fetch", "find again", "lease")) + " |")
    for size in SIZES_MB:
        rounds = [measured(place, room, int(1e6 * size)) for _ in range(ROUNDS)]
        cells = []
        for kind in rounds[0]:
            values = sorted(each[kind] for each in rounds)
            cells.append(f"{statistics.median(values):.0f} ({values[0]:.0f} to {values[-1]:.0f})")
        print(f"| {size:g} MB | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Time a folder of this machine, and the store at a URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="of a store elsewhere; by default in a server that is started here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        table(str(Path(room) / "folder"), Path(room))
        if given.url:
            table(given.url, Path(room))
        else:
            import logging

            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            with server() as url:
                table(url, Path(room))


if __name__ == "__main__":
    main()

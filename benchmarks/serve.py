"""How long requests to `compress serve` take: `python benchmarks/serve.py ENGINE --rates 10,20,40 --with "--batch 1"`.

Open loop: requests arrive as a Poisson process, whether or not those before are answered, and the time of each counts
from when it was to be sent, so a service that falls behind cannot hide it. Every answer is compared with the picture
that the engine draws alone. Each `--with` is a service with these options; they take turns in short rounds, so that
other work on the machine hits all of them. Client and services share the machine's processors.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import platform
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.runtime.engine import Engine

Job = tuple[int, int]  # class and seed
Expected = dict[Job, NDArray[np.uint8]]
SETTLED_S = 0.5  # between two rates


@dataclass(frozen=True)
class Answer:
    """What came of a request: its status, the picture of a good one, and seconds from when it was to be sent."""

    job: Job
    status: int
    picture: str
    seconds: float


@dataclass(frozen=True)
class Load:
    """A round at a rate: the answers, the seconds until the last one, and what was drawn meanwhile."""

    answers: list[Answer]
    seconds: float
    pictures: float
    batches: float


@dataclass(frozen=True)
class Row:
    """A rate of requests (per second), and what came of it."""

    rate: float
    requests: int
    answered: int
    refused: int
    failed: int
    wrong: int
    pictures_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_batch: float


def alone(engine: Engine, count: int) -> Expected:
    """So many pictures, each drawn by itself."""
    jobs = [(number % max(engine.classes, 1), 1000 + number) for number in range(count)]
    return {(label, seed): engine.generate([label], seed)[0] for label, seed in jobs}


async def ask(address: str, job: Job, due: float, classes: bool) -> Answer:
    """Send a request when it is due, on a connection of its own."""
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    place = urlsplit(address)
    body = json.dumps({"seed": job[1], **({"label": job[0]} if classes else {})})
    head = f"POST /generate HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        said, _, content = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    seconds, status = time.perf_counter() - due, int(said.split(b" ", 2)[1])
    return Answer(job, status, json.loads(content)["pictures"][0] if status == 200 else "", seconds)


async def load(address: str, expected: Expected, rate: float, seconds: float, seed: int, classes: bool) -> list[Answer]:
    """Requests that arrive at this rate for so long, and their answers."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, size=max(1, round(2 * rate * seconds)))
    arrivals = np.cumsum(gaps)[np.cumsum(gaps) < seconds]
    jobs, started = list(expected), time.perf_counter() + 0.1
    picked = random.integers(len(jobs), size=len(arrivals))
    return await asyncio.gather(
        *(
            ask(address, jobs[number], started + float(arrival), classes)
            for number, arrival in zip(picked, arrivals, strict=True)
        )
    )


def row(rate: float, loads: Sequence[Load], expected: Expected) -> Row:
    """The numbers of a rate, from all of its rounds."""
    answers = [answer for each in loads for answer in each.answers]
    good = [each for each in answers if each.status == 200]
    refused = sum(each.status == 503 for each in answers)
    times = np.array([each.seconds for each in good] or [np.nan]) * 1000
    wrong = sum(not (pixels(each.picture, expected[each.job]) == expected[each.job]).all() for each in good)
    p50, p95, p99 = (round(float(value), 1) for value in np.percentile(times, [50, 95, 99]))
    batch = sum(each.pictures for each in loads) / max(sum(each.batches for each in loads), 1)
    return Row(
        *(rate, len(answers), len(good), refused, len(answers) - len(good) - refused, wrong),
        *(round(len(good) / sum(each.seconds for each in loads), 1), p50, p95, p99, round(batch, 2)),
    )


def pixels(picture: str, like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A PNG in base64, in the shape of another picture (H, W, C)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).reshape(like.shape)


def drawn(address: str) -> tuple[float, float]:
    """Pictures and batches that a service has drawn so far."""
    with urllib.request.urlopen(f"{address}metrics") as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in lines if name.startswith("compress_batch_pictures")}
    return values["compress_batch_pictures_sum"], values["compress_batch_pictures_count"]


def loaded(address: str, expected: Expected, rate: float, seconds: float, seed: int, classes: bool = True) -> Load:
    """Load a service at a rate, and wait for all of its answers."""
    pictures, batches = drawn(address)
    started = time.perf_counter()
    answers = asyncio.run(load(address, expected, rate, seconds, seed, classes))
    span = max(time.perf_counter() - started, seconds)
    now = drawn(address)
    return Load(answers, span, now[0] - pictures, now[1] - batches)


@contextmanager
def service(engine: Path, options: Sequence[str]) -> Iterator[str]:
    """A service of an engine in a process of its own; its address."""
    command = [sys.executable, "-m", "compress", "serve", str(engine), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = "| requests/s | sent | refused | failed | wrong | answered/s | p50 ms | p95 ms | p99 ms | pictures a batch |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for each in rows:
        cells = (each.rate, each.requests, each.refused, each.failed, each.wrong, each.pictures_per_s)
        lines.append(
            "| " + " | ".join(map(str, (*cells, each.p50_ms, each.p95_ms, each.p99_ms, each.mean_batch))) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Load services of the engine at every rate, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--rates", default="10,20,40", help="requests a second, one after the other")
    parser.add_argument("--seconds", type=float, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=4, help="of each rate")
    parser.add_argument("--pictures", type=int, default=64, help="different ones that are asked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    parser.add_argument("--with", dest="options", action="append", metavar="OPTIONS", help="of compress serve")
    given = parser.parse_args()
    engine, sets = Engine.load(given.engine, threads=2), given.options or [""]
    expected = alone(engine, given.pictures)
    rows: dict[str, list[Row]] = {options: [] for options in sets}
    with ExitStack() as stack:
        addresses = {options: stack.enter_context(service(given.engine, shlex.split(options))) for options in sets}
        for rate in map(float, given.rates.split(",")):
            loads: dict[str, list[Load]] = {options: [] for options in sets}
            for number in range(given.rounds):
                for options, address in addresses.items():
                    time.sleep(SETTLED_S)
                    seed = given.seed + number
                    loads[options].append(loaded(address, expected, rate, given.seconds, seed, bool(engine.classes)))
            for options, found in loads.items():
                rows[options].append(row(rate, found, expected))
                print(options, rows[options][-1], file=sys.stderr, flush=True)
    for options, found in rows.items():
        print(f"\n{options or 'as it is'}\n\n{table(found)}")
    if given.json:
        kept = {options: [asdict(each) for each in found] for options, found in rows.items()}
        given.json.write_text(json.dumps({"system": platform.platform(), "rows": kept}, indent=1) + "\n")
    if any(each.wrong for found in rows.values() for each in found):
        sys.exit("a picture is not the one that is drawn alone")


if __name__ == "__main__":
    main()

"""A store in S3, against a server of its protocol; two processes that share it, one of them killed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from compress.core.store import Store

pytest.importorskip("s3fs", reason="needs the extra s3")
pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("STORE_KILLS", "4"))
REQUESTS = 130  # that the worker makes for six artifacts, about
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
WORKER = """
import itertools, os, random, signal, sys, time, uuid
from pathlib import Path
from compress.core.store import Store, leases, objects
leases.EXPIRY_S, leases.RENEW_S, leases.POLL_S = 2.0, 0.3, (0.02, 0.1)
url, log, seed, last = sys.argv[1:]
count = itertools.count()

def counted(real):
    def request(*given):
        if next(count) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    return request

for kind in (objects.Objects, objects.Files):
    for name in ("read", "info", "listed", "write", "create", "upload", "download", "remove"):
        if name in vars(kind):
            setattr(kind, name, counted(vars(kind)[name]))

def write(folder):
    own = uuid.uuid4().hex
    for name in "abc":
        (folder / name).write_text(own + name * 50_000)
        time.sleep(0.01)
    return {"own": own}

store = Store(url).prepare()
print("ready", flush=True)
keys = [f"k{n}" for n in range(6)]
random.Random(int(seed)).shuffle(keys)
with open(log, "a") as seen:
    store.begin(Path(log), keys)
    for key in keys:
        entry, reused = store.make(key, {"pass": "test"}, write, print)
        own = {(entry.folder / name).read_text()[:32] for name in "abc"} | {entry.notes["own"]}
        measured = store.measurement("m-" + key, lambda: {"own": uuid.uuid4().hex})["own"]
        print(key, *own, measured, file=seen, flush=True)
    store.note_user(Path(log), keys)
store.release()
print("done", flush=True)
"""


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A server of S3's protocol; its address."""
    pytest.importorskip("flask_cors", reason="needs moto[s3], flask and flask-cors")
    moto_server = pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors")
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def url(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of a store in an empty bucket."""
    import botocore.session

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    bucket = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-") + f"-{random.randrange(10**6)}"
    botocore.session.Session().create_client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/prefix"


def write_seven(folder: Path) -> dict[str, Any]:
    (folder / "data").write_text("seven")
    return {"count": 7}


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("made twice")


def test_two_machines_share_a_bucket(machine: Callable[..., Store], tmp_path: Path) -> None:
    first, second, said = machine("a").prepare(), machine("b").prepare(), []
    assert not first.make("k", {"pass": "test"}, write_seven, print)[1]
    entry, reused = second.make("k", {"pass": "test"}, never, print)
    assert reused
    assert (entry.folder / "data").read_text() == "seven"
    assert first.measurement("m", lambda: {"value": 1}) == second.measurement("m", never) == {"value": 1}
    second.collect(0, said.append)
    assert said == ["store: k is in use by a run; left"]
    first.release()
    assert [row["key"] for row in second.collect(0)] == ["k"]
    second.release()
    assert {name.partition("/")[0] for name in first.backend.objects.listed("")} == {"format", "measurements"}


def test_the_first_index_stays(machine: Callable[..., Store]) -> None:
    objects = machine("a").backend.objects
    assert objects.create("x", b"first")
    assert not objects.create("x", b"second")
    assert objects.read("x") == b"first"


def test_a_missing_bucket_is_one_line(url: str, refused: Callable[..., str], tmp_path: Path) -> None:
    for verb in (("list",), ("gc", "--max-size", 0)):
        line = refused("store", *verb, "--store", "s3://no-such-bucket/prefix")
        assert line == (
            "store s3://no-such-bucket/prefix: there is no bucket 'no-such-bucket'; make it, or choose another "
            "with --store"
        )


def test_a_server_out_of_reach_is_one_line_within_10_s(
    url: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before = time.monotonic()
    line = refused("store", "list", "--store", url)
    assert re.search("does not answer within|cannot be reached or used", line)
    assert time.monotonic() - before < 10


def test_without_credentials_one_line_says_which(
    url: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    line = refused("store", "list", "--store", url)
    assert "no credentials were found" in line
    assert "AWS_ACCESS_KEY_ID" in line


class Refusing(BaseHTTPRequestHandler):
    """A server on which nothing is, and that refuses every write with `code`."""

    protocol_version = "HTTP/1.1"  # which says that a body may come
    code, status = "", 403

    def answer(self, status: int, body: str) -> None:
        """Send a response of S3."""
        data = body.encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_HEAD(self) -> None:
        """Say that there is no such object."""
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Say that there is none, or list none."""
        if "list-type" in self.path:
            self.answer(200, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        else:
            self.answer(404, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")

    def do_PUT(self) -> None:
        """Refuse."""
        self.answer(self.status, f"<Error><Code>{self.code}</Code><Message>no more</Message></Error>")

    def log_message(self, *given: object) -> None:
        """Be quiet."""


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("AccessDenied", 403, "access denied (PermissionError: no more); look at the credentials, or choose another"),
        ("QuotaExceeded", 403, "is full ("),
        ("XMinioStorageFull", 507, "is full ("),
    ],
)
def test_a_bucket_that_is_full_or_refuses_is_one_line(
    url: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    code: str, status: int, said: str,
) -> None:  # fmt: skip
    handler = type("Handler", (Refusing,), {"code": code, "status": status})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        line = refused("store", "gc", "--max-size", 0, "--store", "s3://bucket/prefix")
    finally:
        server.shutdown()
        server.server_close()
    assert line.startswith(f"store s3://bucket/prefix: {said}")


def start(url: str, folder: Path, name: str, seed: int, last: int = -1) -> subprocess.Popen[str]:
    """A process of a machine of its own, that makes six artifacts, or kills itself in front of its request `last`."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / name)}
    command = [sys.executable, "-c", WORKER, url, str(folder / f"{name}.log"), str(seed), str(last)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """A process that has opened the store."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def ended(*processes: subprocess.Popen[str]) -> None:
    """Hold processes to having made everything."""
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.endswith("done\n")


def nothing_is_lost_or_doubled(at: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold what all processes saw, killed ones too, to what the store holds for another machine."""
    seen: dict[str, set[str]] = {}
    for log in folder.glob("*.log"):
        for line in log.read_text().splitlines():
            key, *values = line.split()
            seen.setdefault(key, set()).add(" ".join(values))
    assert len(seen) == 6
    assert all(len(values) == 1 for values in seen.values()), seen
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "c"))
    third = Store(at).prepare()
    assert third.damaged() == []
    assert {row["pass"] for row in third.rows()} == {"test"}
    for key, values in seen.items():
        entry = third.find(key)
        assert entry is not None
        texts = {(entry.folder / name).read_text()[:32] for name in "abc"}
        assert {" ".join([*texts, third.measurement(f"m-{key}", never)["own"]])} == values
    assert all(not row["work"] for row in third.rows())
    third.release()


@pytest.mark.parametrize("place", ["file", "s3"])
def test_a_process_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    place: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(int(os.environ.get("STORE_SEED", "0")))
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        at = f"{url}-{number}" if place == "s3" else f"file://{folder}/store"
        killed, other = (ready(start(at, folder, name, chance.randrange(99))) for name in "ab")
        time.sleep(chance.uniform(0, 3.0 if place == "s3" else 0.7))
        killed.kill()
        killed.communicate()
        ended(other, ready(start(at, folder, "a", chance.randrange(99))))
        nothing_is_lost_or_doubled(at, folder, monkeypatch)
        shutil.rmtree(folder)


def test_a_process_that_is_killed_in_front_of_any_request_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(ROUNDS):
        folder, last = tmp_path / str(number), round((number + 0.5) * REQUESTS / ROUNDS)
        folder.mkdir()
        at = f"file://{folder}/store"
        killed = start(at, folder, "a", number, last)
        killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL
        ended(start(at, folder, "a" if number % 2 else "b", number + 1))
        ended(start(at, folder, "b" if number % 2 else "a", number + 2))
        nothing_is_lost_or_doubled(at, folder, monkeypatch)
        shutil.rmtree(folder)


def test_the_store_verbs_take_a_url(url: str, invoke: Callable[..., Result], machine: Callable[..., Store]) -> None:
    store = machine("a").prepare()
    store.make("k", {"pass": "test"}, write_seven, print)
    store.release()
    listed = invoke("store", "list", "--store", url)
    assert listed.exit_code == 0, listed.output
    assert f"{url}:1artifact" in "".join(listed.stdout.split())
    assert "deleted 1 artifact" in invoke("store", "gc", "--max-size", 0, "--store", url).stdout
    assert "0 artifacts" in invoke("store", "list", "--store", url).stdout

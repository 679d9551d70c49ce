"""A store on servers of objects, each where it is installed; two processes that share it, one of them killed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from object_servers import SERVERS, ObjectServer

from compress.core.settings import InputError
from compress.core.store import Store, objects

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("STORE_KILLS", "4"))
REQUESTS = 130  # that the worker makes for six artifacts, about
WORKER = """
import itertools, os, random, signal, sys, time, uuid
from pathlib import Path
from compress.core.store import Store, leases, object_files, objects
leases.EXPIRY_S, leases.RENEW_S, leases.POLL_S, objects.REACH_S = 2.0, 0.3, (0.02, 0.1), 60.0
url, log, seed, last = sys.argv[1:]
count = itertools.count()

def counted(real):
    def request(*given):
        if next(count) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    return request

for kind in (objects.Objects, object_files.Files):
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


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, started: Callable[[str], ObjectServer]) -> ObjectServer:
    """Each server that is installed here."""
    if why := SERVERS[request.param].missing():
        pytest.skip(why)
    return started(request.param)


@pytest.fixture
def url(server: ObjectServer, on_server: Callable[[str], str]) -> str:
    """The URL of a store that is empty."""
    return on_server(server.name)


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


def test_the_first_index_stays(server: ObjectServer, machine: Callable[..., Store]) -> None:
    if not server.conditions:
        pytest.skip(f"{server.name} ignores conditions of writes")
    there = machine("a").backend.objects
    assert there.create("x", b"first")
    assert not there.create("x", b"second")
    assert there.read("x") == b"first"


def test_a_missing_bucket_is_one_line(server: ObjectServer, url: str, refused: Callable[..., str]) -> None:
    place = f"{server.scheme}://no-such-bucket/prefix"
    for verb in (("list",), ("gc", "--max-size", 0)):
        line = refused("store", *verb, "--store", place)
        assert line == (f"store {place}: there is no bucket 'no-such-bucket'; make it, or choose another with --store")


def test_a_server_out_of_reach_is_one_line_within_10_s(
    server: ObjectServer, url: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value.replace(f":{server.port}", ":9"))
    monkeypatch.setattr(objects, "REACH_S", 6.0)
    before = time.monotonic()
    line = refused("store", "list", "--store", url)
    assert re.search("does not answer within|cannot be reached or used", line)
    assert time.monotonic() - before < 10


def test_a_wrong_key_is_one_line(
    server: ObjectServer, url: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not server.wrong_key:
        pytest.skip(f"{server.name} lets everybody in")
    for name, value in server.wrong_key.items():
        monkeypatch.setenv(name, value)
    for verb in (("list",), ("gc", "--max-size", 0)):
        line = refused("store", *verb, "--store", url)
        assert line.startswith(f"store {url}: access denied (")
        assert line.endswith("; look at the credentials, or choose another with --store")


def test_who_may_only_read_takes_what_is_there_and_writes_nothing(
    server: ObjectServer, url: str, machine: Callable[..., Store], refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not server.reader:
        pytest.skip(f"{server.name} has no users with fewer rights")
    machine("a").prepare().make("k", {"pass": "test"}, write_seven, print)
    for name, value in server.reader.items():
        monkeypatch.setenv(name, value)
    entry, reused = machine("b").prepare(["k"]).make("k", {"pass": "test"}, never, print)
    assert reused
    assert (entry.folder / "data").read_text() == "seven"
    with pytest.raises(InputError, match="access denied"):
        machine("c").prepare(["k", "another"])
    assert "access denied" in refused("store", "gc", "--max-size", 0, "--store", url)


def test_a_process_says_nothing_but_its_line(server: ObjectServer, url: str, tmp_path: Path) -> None:
    """Libraries of servers log tracebacks, and warn of clients that were not closed."""
    for place, code, lines in ((url, 0, 0), (f"{server.scheme}://no-such-bucket/prefix", 2, 1)):
        done = subprocess.run(
            [sys.executable, "-m", "compress", "store", "list", "--store", place], capture_output=True, text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, timeout=60,
        )  # fmt: skip
        assert (done.returncode, len(done.stderr.splitlines())) == (code, lines), done.stderr


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


def killed_at_a_random_moment(
    place: Callable[[Path], str], within_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes share a store, one is killed and begins again; hold all that they saw to what is there."""
    chance = random.Random(int(os.environ.get("STORE_SEED", "0")))
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        at = place(folder)
        killed, other = (ready(start(at, folder, name, chance.randrange(99))) for name in "ab")
        time.sleep(chance.uniform(0, within_s))
        killed.kill()
        killed.communicate()
        ended(other, ready(start(at, folder, "a", chance.randrange(99))))
        nothing_is_lost_or_doubled(at, folder, monkeypatch)
        shutil.rmtree(folder)


def test_a_process_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    server: ObjectServer, on_server: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at_a_random_moment(lambda folder: on_server(server.name), 3.0, tmp_path, monkeypatch)


def test_the_same_in_a_mounted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at_a_random_moment(lambda folder: f"file://{folder}/store", 0.7, tmp_path, monkeypatch)


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

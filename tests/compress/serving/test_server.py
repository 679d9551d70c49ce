"""A server has an address of its own, and ends on a signal when it has answered what it accepted."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.serving import server
from export.runtime.engine import Engine


def test_an_address_that_is_taken_is_said_before_an_engine_is_opened() -> None:
    with server.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert server.url(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(InputError) as error:
            server.bound("127.0.0.1", port)
    assert str(error.value) == (f"--host 127.0.0.1 --port {port}: Address already in use; name another address or port")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300])
def test_a_host_that_there_is_not_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"--host .* --port 0: .*; name another address or port"):
        server.bound(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_stands_in_brackets() -> None:
    try:
        made = server.bound("::1", 0)
    except InputError:
        pytest.skip("this machine has no IPv6 address")
    with made:
        assert server.url(made) == f"http://[::1]:{made.getsockname()[1]}/"


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError) as error:
        server.require()
    assert str(error.value).startswith("serve needs an HTTP server (")
    assert str(error.value).endswith("; pip install 'prometheus-client>=0.26' 'starlette>=1.10' 'uvicorn>=0.54'")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_when_what_was_accepted_is_answered(number: int, shared_run, tmp_path: Path) -> None:
    engine = shared_run.output / "engines" / "cpu"
    command = [sys.executable, "-m", "compress", "serve", str(engine), "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        [*command, "--deadline-ms", "1500", "-q", "--log-file", "log.txt"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = line.split()[0]
            assert line == f"{address} draws with {engine}; Ctrl-C stops it\n"
            found: dict[str, Any] = {}
            asking = threading.Thread(target=lambda: found.update(asked(address)))
            asking.start()
            time.sleep(0.5)  # it waits for others to be drawn with
            process.send_signal(number)
            asking.join(30)
            said, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert said == "stopped; requests answered: 1, pictures drawn for them: 2\n"
    logged = (tmp_path / "log.txt").read_text()
    assert f"{address} draws with {engine}" in logged
    assert re.search(r"127\.0\.0\.1: ok, 2 pictures, \d\.\d{3} s\n", logged)
    assert "stopped; what was accepted is finished\n" in logged
    assert found["seed"] == 7
    assert found["seconds"] > 1
    alone = Engine.load(engine, threads=1).generate([3, 3], 7)[..., 0]
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found["pictures"]]
    assert (np.stack(drawn) == alone).all()


def asked(address: str) -> dict[str, Any]:
    """What a service answers to one request."""
    body = json.dumps({"label": 3, "seed": 7, "count": 2}).encode()
    request = urllib.request.Request(f"{address}generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found

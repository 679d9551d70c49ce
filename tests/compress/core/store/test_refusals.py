"""What S3, Google and Azure refuse, as servers that say nothing else answer it, is one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from object_servers import ACCOUNT, ACCOUNT_KEY

pytestmark = pytest.mark.slow


class Refusing(BaseHTTPRequestHandler):
    """A server on which nothing is, and that refuses every write, or everything, with `status` and `body`."""

    protocol_version = "HTTP/1.1"  # which says that a body may come
    status, body, reads = 403, "", True

    def answer(self, status: int, body: str) -> None:
        """Send a response."""
        data = body.encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if body.startswith("{") else "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        """Say that there is no such object."""
        self.answer(404, "")

    def do_GET(self) -> None:
        """Say that there is none, or list none."""
        if not self.reads:
            self.refuse()
        elif "list-type" in self.path:
            self.answer(200, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        elif "comp=list" in self.path:
            self.answer(200, "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>")
        elif "restype=container" in self.path or self.path.split("?")[0].endswith("/o"):
            self.answer(200, "{}")
        else:
            self.answer(404, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")

    def refuse(self) -> None:
        """Refuse."""
        self.answer(self.status, self.body)

    do_PUT = refuse  # noqa: N815 - the name that the base class asks for
    do_POST = refuse  # noqa: N815

    def log_message(self, *given: object) -> None:
        """Be quiet."""


def s3(code: str) -> str:
    """An error of S3; Azure's have the same form."""
    return f"<Error><Code>{code}</Code><Message>no more</Message></Error>"


def google(status: int, message: str) -> str:
    """An error of Google."""
    return f'{{"error": {{"code": {status}, "message": "{message}"}}}}'


DENIED, FULL, NOBODY = "access denied (", "is full (", "no credentials were found ("
CASES = [
    ("s3", 403, s3("AccessDenied"), True, DENIED + "PermissionError: no more); look at the credentials, or choose ano"),
    ("s3", 403, s3("InvalidAccessKeyId"), False, DENIED),
    ("s3", 403, s3("SignatureDoesNotMatch"), False, DENIED),
    ("s3", 403, s3("QuotaExceeded"), True, FULL),
    ("s3", 507, s3("XMinioStorageFull"), True, FULL),
    ("gs", 403, google(403, "someone does not have storage.objects.create access"), True, DENIED),
    ("gs", 401, google(401, "Anonymous caller does not have storage.objects.get access"), False, NOBODY),
    ("az", 403, s3("AuthorizationPermissionMismatch"), True, DENIED),
    ("az", 403, s3("AuthenticationFailed"), False, DENIED),
]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set what a user sets, to reach a server that refuses so."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: str, reads: bool) -> None:
        handler = type("Handler", (Refusing,), {"status": status, "body": body, "reads": reads})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_port}"
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address, "STORAGE_EMULATOR_HOST": address,
            "AZURE_STORAGE_CONNECTION_STRING":
                f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={address}/{ACCOUNT};",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("scheme", "status", "body", "reads", "said"), CASES)
def test_what_a_server_refuses_is_one_line(
    answering: Callable[..., None], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    scheme: str, status: int, body: str, reads: bool, said: str,
) -> None:  # fmt: skip
    pytest.importorskip({"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}[scheme])
    answering(status, body, reads)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = refused("store", "gc", "--max-size", 0, "--store", f"{scheme}://bucket/prefix")
    assert line.startswith(f"store {scheme}://bucket/prefix: {said}")


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("s3", "AWS_ACCESS_KEY_ID"), ("az", "AZURE_STORAGE_CONNECTION_STRING")],
)
def test_without_credentials_one_line_says_which(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, said: str
) -> None:
    pytest.importorskip({"s3": "s3fs", "az": "adlfs"}[scheme])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    line = refused("store", "list", "--store", f"{scheme}://bucket/prefix")
    assert "no credentials were found" in line
    assert said in line

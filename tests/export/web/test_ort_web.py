"""onnxruntime-web is taken from the cache, from npm or from what is given, and only if it is exactly that release."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.web import ort_web
from export.web.ort_web import BINARY, SCRIPT, VERSION, RuntimeMissingError, obtain

CONTENT = {SCRIPT: b"export const script = 1;", BINARY: b"\0asm"}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package in npm's form, whose hashes are those of the release; the cache is empty."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path = tmp_path / "given.tgz"
    path.write_bytes(packed.getvalue())
    monkeypatch.setattr(ort_web, "INTEGRITY", base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode())
    monkeypatch.setattr(
        ort_web, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_a_package_that_was_fetched_once_lies_in_the_cache(package: Path, tmp_path: Path) -> None:
    def never(folder: Path) -> Path:
        raise AssertionError("fetched twice")

    assert obtain(fetch=lambda folder: package) == CONTENT
    assert ort_web.cache() == tmp_path / "cache" / "compress" / f"onnxruntime-web-{VERSION}"
    assert obtain(fetch=never) == CONTENT
    assert [path.name for path in ort_web.cache().parent.iterdir()] == [ort_web.cache().name], "no draft is left"


def test_a_package_or_a_folder_of_it_can_be_given(package: Path, tmp_path: Path) -> None:
    assert obtain(package) == CONTENT
    (tmp_path / "unpacked" / "dist").mkdir(parents=True)
    for name, content in CONTENT.items():
        (tmp_path / "unpacked" / "dist" / name).write_bytes(content)
    assert obtain(tmp_path / "unpacked") == CONTENT
    assert not ort_web.cache().exists(), "what is given is not kept"


def test_another_package_or_file_is_refused(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(RuntimeMissingError, match=rf"given\.tgz: is not onnxruntime-web {VERSION} as npm publishes it"):
        obtain(package)
    with pytest.raises(RuntimeMissingError, match=r"none\.tgz: not readable \(No such file or directory\)"):
        obtain(tmp_path / "none.tgz")
    (tmp_path / "unpacked" / "dist").mkdir(parents=True)
    with pytest.raises(RuntimeMissingError, match=rf"{SCRIPT}: not readable \(No such file or directory\); remove "):
        obtain(tmp_path / "unpacked")
    (tmp_path / "unpacked" / "dist" / SCRIPT).write_bytes(b"other")
    with pytest.raises(RuntimeMissingError, match=rf"{SCRIPT}: is not that of onnxruntime-web {VERSION} \(SHA-256"):
        obtain(tmp_path / "unpacked")


def test_without_npm_the_error_says_what_to_do(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_web.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r"no npm to fetch it; run  npm pack onnxruntime-web@\S+  where"):
        obtain()


def test_an_npm_that_fails_is_quoted_and_nothing_is_kept(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_web.shutil, "which", lambda name: "/usr/bin/npm")
    failed = SimpleNamespace(stderr="npm error code ENOTFOUND\nmore\n")
    monkeypatch.setattr(ort_web.subprocess, "run", lambda *given, **settings: failed)
    with pytest.raises(RuntimeMissingError, match=r"failed \(npm error code ENOTFOUND\); run it where the network is"):
        obtain()

    def slow(*given, **settings):
        raise subprocess.TimeoutExpired("npm", 1)

    monkeypatch.setattr(ort_web.subprocess, "run", slow)
    with pytest.raises(RuntimeMissingError, match=r"failed \(no answer in 600 seconds\)"):
        obtain()
    assert not ort_web.cache().exists()

"""Objects of a file system, and one line for whatever is wrong with it."""

from __future__ import annotations

import builtins
import errno
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from compress.core.settings import InputError
from compress.core.store import objects as module
from compress.core.store.failures import StoreError
from compress.core.store.object_files import objects_at
from compress.core.store.objects import Info, Objects, Refused, info_of, within


@pytest.fixture
def objects(url: str, tmp_path: Path) -> Objects:
    return objects_at(url, tmp_path / "kept")


def test_objects_are_written_read_listed_and_removed(objects: Objects, tmp_path: Path) -> None:
    assert objects.first("a/x") is None
    assert objects.listed("a") == {}
    objects.write("a/x", b"1")
    objects.write("a/x", b"22")
    objects.write("a/b/y", b"")
    objects.write("ab", b"not in a")
    assert objects.first("a/x") == objects.read("a/x") == b"22"
    found = objects.listed("a")
    assert {name: info.size for name, info in found.items()} == {"a/x": 2, "a/b/y": 0}
    assert all(abs(info.modified - time.time()) < 60 for info in found.values())
    assert objects.info("a/x") == found["a/x"]
    assert objects.read_all(["a/x", "a/b/y", "gone"]) == {"a/x": b"22", "a/b/y": b""}
    assert objects.read_all([]) == {}
    objects.download("a/x", tmp_path / "copy")
    objects.upload(tmp_path / "copy", "a/z")
    assert objects.read("a/z") == b"22"
    assert objects.exists("a/z")
    objects.remove("a/z")
    objects.remove("a/z")
    assert not objects.exists("a/z")
    for missing in (objects.read, objects.info, lambda name: objects.download(name, tmp_path / "none")):
        with pytest.raises(FileNotFoundError):
            missing("a/z")


def test_what_is_there_is_not_created_again(objects: Objects) -> None:
    assert objects.create("x", b"first")
    assert not objects.create("x", b"second")
    assert objects.read("x") == b"first"
    assert [*objects.listed("drafts")] == []


def test_a_condition_that_any_server_breaks_off_says_that_another_one_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amazon's names the condition, which s3fs knows; others do not. And it may ask to try again."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    for codes, made in (
        (["PreconditionFailed"], False),
        (["412"], False),
        (["ConditionalRequestConflict", "PreconditionFailed"], False),
        (["ConditionalRequestConflict"], True),
    ):
        objects, left = objects_at("memory://conditions/prefix", tmp_path), [*codes]

        def pipe_file(path: str, data: bytes, mode: str, left: list[str] = left) -> None:
            if left:
                raise caused(OSError(errno.EINVAL, "a condition did not hold"), ClientError(left.pop(0)))

        monkeypatch.setattr(objects.fs, "pipe_file", pipe_file)
        assert objects.create("x", b"") is made
    monkeypatch.setattr(
        objects.fs, "pipe_file", lambda *given, **more: (_ for _ in ()).throw(caused(OSError("x"), ClientError("409")))
    )
    with pytest.raises(StoreError, match="cannot be reached or used"):
        objects.create("x", b"")


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code}) when calling the PutObject operation")
        self.response = {"Error": {"Code": code}}


class NoCredentialsError(Exception):
    """As botocore's."""


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (caused(FileNotFoundError("x"), ClientError("NoSuchBucket")), StoreError,
         "there is no bucket 'bucket'; make it, or choose another with --store"),
        (caused(PermissionError("Access Denied"), ClientError("AccessDenied")), Refused,
         "access denied (PermissionError: Access Denied); look at the credentials, or choose another with --store"),
        (caused(PermissionError("too much"), ClientError("QuotaExceeded")), StoreError, "is full (PermissionError: to"),
        (OSError(errno.EIO, "An error occurred (XMinioStorageFull) when calling"), StoreError, "is full (OSError: "),
        (OSError(errno.ENOSPC, "No space left on device"), StoreError, "is full (OSError: "),
        (NoCredentialsError("Unable to locate credentials"), StoreError, "no credentials were found (NoCredentialsErr"),
        (TimeoutError("read"), StoreError, "cannot be reached or used (TimeoutError: read); what was finished is kept"),
        (RuntimeError("a\nb" + 1000 * "c"), StoreError, "cannot be reached or used (RuntimeError: a bccc"),
    ],
)  # fmt: skip
def test_whatever_a_file_system_raises_is_one_line(error: Exception, kind: type, said: str, tmp_path: Path) -> None:
    objects = Objects("s3://bucket/prefix", tmp_path)
    with pytest.raises(StoreError, match=re.escape(f"store s3://bucket/prefix: {said}")) as caught, objects.errors():
        raise error
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    if "full" in said:
        assert str(caught.value).endswith(f"what was finished is kept in {tmp_path}, and the next run uploads it")


def test_a_missing_object_and_a_line_of_ours_pass(tmp_path: Path) -> None:
    for error in (FileNotFoundError("x"), InputError("ours")):
        with pytest.raises(type(error)) as caught, Objects("s3://bucket/prefix", tmp_path).errors():
            raise error
        assert caught.value is error


def test_a_server_that_does_not_answer_is_one_line_in_time() -> None:
    before = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        within(0.1, lambda: time.sleep(2), "does not answer")
    assert time.monotonic() - before < 1
    assert within(5, lambda: 3, "") == 3
    with pytest.raises(KeyError):
        within(5, lambda: {}["k"], "")


def test_an_unknown_file_system_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file system is called 'nosuch'; use a path or s3://bucket/prefix"):
        objects_at("nosuch://b", tmp_path).first("x")


def test_a_url_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: __import__("no_such_package"))
    packages = (("s3://b/p", "'s3fs>=2026.9'"), ("gs://b/p", "'gcsfs>=2026.10'"), ("az://b/p", "'adlfs>=2026.8'"))
    for url, package in packages:
        command = f"pip install {package}"
        with pytest.raises(InputError, match=re.escape(f"needs a package that is not installed; {command}")):
            objects_at(url, tmp_path).first("x")
    with pytest.raises(InputError, match="needs a package that is not installed; No module named 'no_such_package'"):
        objects_at("sftp://b/p", tmp_path).first("x")


def test_without_fsspec_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *given: Any, **more: Any) -> Any:
        if name == "fsspec":
            raise ImportError("No module named 'fsspec'")
        return real(name, *given, **more)

    monkeypatch.delitem(sys.modules, "fsspec", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="needs fsspec; pip install fsspec"):
        objects_at("s3://b/p", tmp_path).first("x")


def test_the_time_of_an_object_is_read_as_each_file_system_says_it() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    for name, value in (("LastModified", when), ("mtime", when.timestamp()), ("updated", when.isoformat())):
        assert info_of({"size": 3, name: value}) == Info(3, when.timestamp())
    with pytest.raises(ValueError, match="does not say when an object was written, so leases could not expire"):
        info_of({"size": 3})

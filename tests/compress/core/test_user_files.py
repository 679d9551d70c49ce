"""Files that a user names: each thing that can be wrong with one is a line that says what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.core.user_files import read_bytes, read_text, user_path


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/a.yaml") == Path("/home/somebody/a.yaml")
    assert user_path("a/~b") == Path("a/~b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~nosuch-user/a", "--image: '~nosuch-user/a': no user has this home folder; write the path out"),
        ("a\0b", "--image: 'a\\x00b' cannot be a path: it holds a NUL character"),
        ("a\ud800", "--image: 'a\\ud800' cannot be a path on this system"),
    ],
)
def test_what_cannot_be_a_path_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        user_path(text, "--image")
    assert str(caught.value) == message


def test_what_is_no_readable_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"abc\xff")
    for path, text in (
        (tmp_path / "none", "there is no such file"),
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "pipe", "is a pipe or a device, not a regular file"),
        (Path("/dev/zero"), "is a pipe or a device, not a regular file"),
        (tmp_path / "loop", "cannot be read (Too many levels of symbolic links)"),
        (tmp_path / "file" / "more", "cannot be read (Not a directory)"),
        (tmp_path / ("n" * 300), "cannot be read (File name too long)"),
    ):
        with pytest.raises(InputError) as caught:
            read_bytes(path, 1024)
        assert str(caught.value).endswith(f": {text}")
    with pytest.raises(InputError, match=r"file: not UTF-8 text \(invalid start byte at byte 3\)"):
        read_text(tmp_path / "file", 1024)


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1024)
    assert read_text(path, 1024) == "a" * 1024
    path.write_bytes(b"a" * 1025)
    with pytest.raises(InputError, match="file: is larger than 1 KiB, the most that is read"):
        read_bytes(path, 1024)

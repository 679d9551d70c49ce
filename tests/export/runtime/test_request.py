"""What a command line asks to be drawn."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from export.runtime.request import read_features


def npy(header: str, data: bytes = b"") -> bytes:
    """A .npy file with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a readable .npy file ("),
        (b"not an array", "not a readable .npy file ("),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 9, 9), }"),
            "not a readable .npy file (",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 9, 9), }"), "not a readable"),
        (npy("((((("), "not a readable .npy file ("),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }", b"x"), "not a readable .npy file ("),
        (
            npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1, 1), }", b"1234"),
            "holds int32 (1, 1, 1); floats",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }", b"1234"), "holds float32 (1, 1); floats"),
    ],
    ids=range(8),
)
def test_features_that_are_none_are_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "features.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"--features: {path}: {text}")) as error:
        read_features(path)
    assert "\n" not in str(error.value)


def test_features_are_read_from_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    with pytest.raises(ValueError, match=r"not a readable \.npy file"):
        read_features(path)
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is not a regular file"):
        read_features(path)
    np.savez(tmp_path / "features.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="holds an archive; floats"):
        read_features(tmp_path / "features.npz")
    np.save(tmp_path / "whole.npy", np.ones((2, 3, 4), dtype=np.float16))
    found = read_features(tmp_path / "whole.npy")
    assert (found.shape, found.dtype, float(found.min())) == ((2, 3, 4), np.float32, 1.0)

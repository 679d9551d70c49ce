"""TokenSets with wrong numbers, wrong formats or broken archives: one line that names the file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Arrays = dict[str, Any]


@pytest.fixture
def arrays() -> Arrays:
    """12 held-out pictures of 4x4 tokens and their classes."""
    labels = np.arange(12) % 10
    return {"tokens": np.tile(labels[:, None], 16) + 1, "labels": labels, "parts": np.full(12, 2)}


@pytest.fixture
def scored(corpus: Path, here: Path) -> Callable[[str], tuple[object, ...]]:
    """The command line that scores `t.npz` with the tiny model, or its engine."""

    def arguments(reader: str = "model") -> tuple[object, ...]:
        return ("verify", corpus / reader, corpus / reader, "--tokens", here / "t.npz", "--threads", 1)

    return arguments


def changed(arrays: Arrays, name: str, value: Any) -> Arrays:
    """The arrays with one number, or one array, exchanged."""
    if np.ndim(value) == 0:
        array = arrays[name].copy()
        array.flat[3] = value
        value = array
    return {**arrays, name: value}


def test_a_plain_set_is_read(arrays: Arrays, scored: Callable[..., Any], works: Callable[..., str]) -> None:
    np.savez("t.npz", **arrays)
    works(*scored())


@pytest.mark.parametrize("reader", ["model", "engine"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", -1), ("tokens", -17), ("tokens", 17), ("tokens", 2**40), ("labels", -1), ("labels", -5), ("labels", 11),
     ("labels", 2**62), ("parts", 3), ("parts", -1)],
)  # fmt: skip
def test_a_number_that_the_model_does_not_know_is_named(
    name: str, value: int, reader: str, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    np.savez("t.npz", **changed(arrays, name, value))
    refused(*scored(reader), named=("t.npz", value))


@pytest.mark.parametrize("name", ["tokens", "labels", "parts"])
@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "c8", "U2", "S2", "M8[s]", "m8[s]", "?"])
def test_numbers_that_are_not_whole_are_refused_not_rounded(
    name: str, kind: str, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    array = arrays[name].astype(kind)
    np.savez("t.npz", **{**arrays, name: array + array.dtype.type(0.4) if kind[0] == "f" else array})
    refused(*scored(), named=("t.npz", name))


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "u8", ">i4", ">u2"])
def test_whole_numbers_of_every_width_and_byte_order_are_read(
    kind: str, arrays: Arrays, scored: Callable[..., Any], works: Callable[..., str]
) -> None:
    np.savez("t.npz", **{name: array.astype(kind) for name, array in arrays.items()})
    works(*scored())


def test_pickled_arrays_are_refused_and_not_read(
    arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    np.savez("t.npz", **{**arrays, "tokens": arrays["tokens"].astype("O")})
    refused(*scored(), named=("t.npz",))


@pytest.mark.parametrize(
    "shape",
    [(12, 15), (12, 17), (11, 16), (12, 4, 4), (192,), (0, 16), (12, 0), ()],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_another_shape_is_refused(
    shape: tuple[int, ...], arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    np.savez("t.npz", **{**arrays, "tokens": np.ones(shape, np.int64)})
    refused(*scored(), named=("t.npz",))


@pytest.mark.parametrize("name", ["tokens", "labels", "parts"])
def test_a_missing_array_is_named(
    name: str, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    np.savez("t.npz", **{each: array for each, array in arrays.items() if each != name})
    refused(*scored(), named=("t.npz", name))


@pytest.mark.parametrize(
    "value",
    [np.full((12, 5, 6), np.nan, "f4"), np.full((12, 5, 6), np.inf), np.ones((12, 5), "f4"), np.full((12, 5, 6), "x")],
)
def test_features_that_are_none_are_refused(
    value: Any, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    np.savez("t.npz", **arrays, features=value)
    refused(*scored(), named=("t.npz", "features"))


def archive(arrays: Arrays, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> None:
    """Write the set with some members as these bytes."""
    with zipfile.ZipFile("t.npz", "w", kind) as file:
        for name, data in ({f"{name}.npy": saved(array) for name, array in arrays.items()} | members).items():
            file.writestr(name, data)


def saved(array: Any) -> bytes:
    """An array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(text: str) -> bytes:
    """An .npy file that says this of its array."""
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(400)


HEADERS = {
    "a size that no machine has": "{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999999999999, 16)}",
    "a size above all memory": "{'descr': '<u2', 'fortran_order': False, 'shape': (4000000000, 16)}",
    "a negative size": "{'descr': '<u2', 'fortran_order': False, 'shape': (-12, 16)}",
    "sizes whose product wraps around": "{'descr': '<u2', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "an open bracket": "{'descr': '<u2', 'fortran_order': False, 'shape': (12, 16",
    "an open string": "{'descr': '<u2",
    "deep brackets": "(" * 5000,
    "a word": "x",
    "no text": "",
    "a call": "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (12, 16)}",
    "a format that is none": "{'descr': 'zz', 'fortran_order': False, 'shape': (12, 16)}",
    "a format that is a list": "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (12, 16)}",
    "an order that is none": "{'descr': '<u2', 'fortran_order': 3, 'shape': (12, 16)}",
    "one key more": "{'descr': '<u2', 'fortran_order': False, 'shape': (12, 16), 'x': 1}",
    "one key less": "{'descr': '<u2', 'shape': (12, 16)}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_an_array_with_a_broken_header_is_refused(
    kind: str, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    archive(arrays, {"tokens.npy": with_header(HEADERS[kind])})
    refused(*scored(), named=("t.npz",))


@pytest.mark.parametrize("data", [b"no array", b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x10\x00", b"\x80\x04\x95"])
def test_a_member_that_is_no_array_is_refused(
    data: bytes, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    archive(arrays, {"tokens.npy": data})
    refused(*scored(), named=("t.npz",))


@pytest.mark.parametrize("kind", ["npy", "text", "nothing", "folder", "gzip", "half", "method", "encrypted"])
def test_what_is_no_archive_of_arrays_is_refused(
    kind: str, arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    path = Path("t.npz")
    archive(arrays, {})
    data = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        local, central = data.find(b"PK\x03\x04"), data.find(b"PK\x01\x02")
        flags = bytearray(data)
        flags[local + 6] |= 1
        flags[central + 8] |= 1
        method = bytearray(data)
        method[local + 8] = method[central + 10] = 77
        other = {"npy": saved(arrays["tokens"]), "text": b"tokens", "nothing": b"", "gzip": b"\x1f\x8b" + bytes(60),
                 "half": data[: len(data) // 2], "encrypted": bytes(flags), "method": bytes(method)}  # fmt: skip
        path.write_bytes(other[kind])
    refused(*scored(), named=("t.npz",))


def test_an_archive_that_expands_without_measure_is_refused_before_it_does(
    arrays: Arrays, scored: Callable[..., Any], refused: Callable[..., str]
) -> None:
    archive(arrays, {})
    with (
        zipfile.ZipFile("t.npz", "a", zipfile.ZIP_DEFLATED) as file,
        file.open("features.npy", "w", force_zip64=True) as member,
    ):
        member.write(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (12, 16384, 16384)}")[:128])
        for _ in range(64):
            member.write(bytes(2**20))
    refused(*scored(), named=("t.npz",))


def test_a_device_is_no_token_file(corpus: Path, refused: Callable[..., str]) -> None:
    model = corpus / "model"
    refused("verify", model, model, "--tokens", "/dev/zero", named=("/dev/zero",))

"""Arrays are read as they were saved; whatever else a file is, one line says so and little memory is used."""

from __future__ import annotations

import io
import os
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from calibration.archives import FileError, opened
from calibration.arrays import FLOATS, NUMBERS, TRUTHS, WHOLE, Wanted, array_names, read_array, read_arrays

TOKENS = {"tokens": Wanted(WHOLE, (2,))}
ANY = Wanted(NUMBERS + TRUTHS, (0, 1, 2, 3))


def save(folder: Path, **arrays: object) -> Path:
    """An .npz file of these arrays."""
    path = folder / "t.npz"
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def packed(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of these bytes."""
    path = folder / "t.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    """The beginning of an .npy file with this header."""
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text.encode()


def complaint(path: Path, wanted: dict[str, Wanted] | None = None, limit_bytes: int = 1 << 20) -> str:
    """What reading says, without the path."""
    with pytest.raises(FileError) as caught:
        read_arrays(path, TOKENS if wanted is None else wanted, limit_bytes)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < len(str(path)) + 400
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize("dtype", ["<i2", ">i8", "u1", "<f4", ">f8", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were_saved(tmp_path, dtype, shape, order):
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), dtype=dtype, order=order)
    np.savez(tmp_path / "stored.npz", first=array, second=array)
    for path in (save(tmp_path, first=array, second=array), tmp_path / "stored.npz"):
        found = read_arrays(path, {"second": ANY, "none": Wanted(WHOLE, (1,), needed=False)})
        assert list(found) == ["second"]
        np.testing.assert_array_equal(found["second"], array)
        assert found["second"].dtype == array.dtype.newbyteorder("=")
        assert array_names(path) == ["first", "second"]
    np.save(tmp_path / "one.npy", array)
    np.testing.assert_array_equal(read_array(tmp_path / "one.npy", ANY), array)


def test_a_missing_array_is_named_with_those_that_are_there(tmp_path):
    path = save(tmp_path, labels=np.zeros(2), parts=np.zeros(2))
    assert complaint(path) == "array 'tokens' is missing; it holds 'labels', 'parts'"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 2)), "is float64; whole numbers are needed"),
        (np.zeros((2, 2), dtype=complex), "is complex128; whole numbers are needed"),
        (np.zeros((2, 2), dtype=bool), "is bool; whole numbers are needed"),
        (np.array([["a"]]), "is <U1; whole numbers are needed"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "is datetime64[D]; whole numbers are needed"),
        (np.array([[None]]), "holds Python objects, which are never read; save it as numbers"),
        (np.zeros((2, 2), dtype=[("a", "i4")]), "holds records; plain numbers are needed"),
        (np.zeros(4, dtype=int), "has 1 axes, shape (4,); 2 are needed"),
        (np.array([[2**63]], dtype=np.uint64), "holds 9223372036854775808, which is out of range"),
    ],
)
def test_another_kind_or_rank_is_refused(tmp_path, array, said):
    assert complaint(save(tmp_path, tokens=array)) == f"array 'tokens': {said}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(tmp_path, value):
    path = save(tmp_path, logits=np.array([0, value]))
    assert complaint(path, {"logits": Wanted(FLOATS, (1,))}) == "array 'logits': holds NaN or Inf"


def test_pickled_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    array = np.empty(1, dtype=object)
    array[0] = Trap()
    np.savez(tmp_path / "t.npz", tokens=array)
    assert "Python objects" in complaint(tmp_path / "t.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999, 2)}", "its header says shape"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 2)}", "its header says shape (-1, 2)"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (True, 2)}", "its header says shape (True, 2)"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000, 1000000)}", "takes 8e+12 bytes; 1.05e+06 are"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 9000000000000000000)}", "not readable"),
        (
            "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 2)}",
            "shape (3, 2) of int64 takes 48 bytes; 16 follow",
        ),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1)}", "shape (1, 1) of int64 takes 8 bytes; 16 follow"),
        ("{'descr': '|Q9', 'fortran_order': False, 'shape': (1, 1)}", "its header says the number format '|Q9'"),
        (
            "{'descr': '<i8', 'fortran_order': None, 'shape': (1, 2)}",
            "its header says fortran_order None; True or False is needed",
        ),
        ("{'descr': '<i8', 'fortran_order': False}", "its header is damaged ('shape')"),
        ("{'descr': (", "its header is damaged ("),
        ("[" * 4000, "its header is damaged ("),
        ("__import__('os').system('touch sprung')", "its header is damaged ("),
        (" " * 5000, "its header takes 5000 bytes; it is damaged"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, text, said):
    path = packed(tmp_path, {"tokens.npy": header(text, b"\x02\x00") + bytes(0 if "9000000" in text else 16)})
    assert complaint(path).startswith(f"array 'tokens': {said}")


def test_a_bomb_is_refused_before_it_is_expanded(tmp_path):
    said = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 60000000)}"
    path = packed(tmp_path, {"tokens.npy": header(said) + bytes(60_000_000)})
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    assert complaint(path).endswith("takes 6e+07 bytes; 1.05e+06 are allowed")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_limit_is_of_all_arrays_together(tmp_path):
    path = save(tmp_path, a=np.zeros(100), b=np.zeros(100))
    each = Wanted(FLOATS, (1,))
    assert len(read_arrays(path, {"a": each, "b": each}, 1600)) == 2
    assert complaint(path, {"a": each, "b": each}, 1599) == "array 'b': takes 800 bytes; 799 are allowed"


def test_what_is_no_npz_file_is_named(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros(2))
    assert complaint(tmp_path / "t.npy").startswith("holds one array without a name (.npy)")
    (tmp_path / "text.npz").write_text("tokens")
    assert complaint(tmp_path / "text.npz").startswith("not a readable zip archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    assert complaint(tmp_path / "empty.npz").startswith("not a readable zip archive")
    assert complaint(tmp_path / "none.npz") == "there is no such file"
    assert complaint(tmp_path) == "is a folder, not a regular file"
    assert complaint(Path("/dev/zero")) == "is a device, not a regular file"
    os.mkfifo(tmp_path / "pipe.npz")
    assert complaint(tmp_path / "pipe.npz") == "is a named pipe, not a regular file"
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    assert "symbolic links" in complaint(tmp_path / "loop.npz")
    assert complaint(packed(tmp_path, {"tokens.npy": b"text"})) == "array 'tokens': is no NumPy array"
    with pytest.raises(FileError, match="is no NumPy array"):
        read_array(tmp_path / "text.npz", ANY)
    with pytest.raises(FileError, match="is a device"):
        read_array(Path("/dev/zero"), ANY)


def test_encrypted_and_doubled_members_and_other_packings_are_refused(tmp_path):
    path = save(tmp_path, tokens=np.zeros((1, 1), dtype=int))
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(mark) + place] |= 1
    path.write_bytes(content)
    assert complaint(path) == "'tokens.npy' is encrypted; save it without a password"
    assert complaint(packed(tmp_path, {"tokens.npy": b""}, zipfile.ZIP_BZIP2)).endswith(
        "packed in a way that is not read"
    )
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("tokens.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("tokens.npy", b"")
    assert complaint(tmp_path / "d.npz") == "holds 'tokens.npy' twice"


def test_a_list_of_members_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("calibration.archives.DIRECTORY_BYTES", 10_000)
    path = packed(tmp_path, {f"{index:04}.npy": b"" for index in range(300)})
    with pytest.raises(FileError, match="its list of members is larger than"), opened(path):
        pass


def test_long_names_are_shortened_in_messages(tmp_path):
    said = complaint(packed(tmp_path, {f"{'x' * 5000}{index}.npy": b"" for index in range(3)}))
    assert "..." in said


def test_cut_and_changed_bytes_are_refused_in_one_line_or_read_rightly(tmp_path):
    array, generator = np.arange(600).reshape(20, 30), random.Random(0)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tokens=array)
    whole, path, refused = buffer.getvalue(), tmp_path / "t.npz", 0
    for _ in range(300):
        content = bytearray(whole)
        if generator.random() < 0.3:
            del content[generator.randrange(len(content)) :]
        else:
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content)
        try:
            found = read_arrays(path, TOKENS)["tokens"]
        except FileError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, array)
    assert refused > 200

"""TokenSets of `verify`: their arrays, the headers of these, and the archive's bytes."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz import blobs
from fuzz.case import Case
from fuzz.corpus import CLASSES, GRID, LEVELS

HEADERS = (
    ("(60, 16)", "(60, 15)"), ("(60, 16)", "(-60, 16)"), ("(60, 16)", "(6000000000, 16)"), ("(60, 16)",
    "(99999999999999999999,)"),
    ("(60, 16)", "(60, 16"), ("(60, 16)", "60"), ("(60, 16)", "((60, 16),)"), ("(60, 16)", "()"), ("(60, 16)",
    "(960,)"),
    ("<u2", "|O"), ("<u2", ">u2"), ("<u2", "<f2"), ("<u2", "<i2"), ("<u2", "zz"), ("<u2", "|S2"), ("<u2",
    "<M8[s]"), ("<u2", "<u9"),
    ("<u2", "<U1"), ("<u2", "|V2"), ("False", "True"), ("False", "None"), ("'descr'", "'dessr'"), ("{",
    "(" * 300), ("}", ""),
)  # fmt: skip
BAD: tuple[Any, ...] = (-1, -5, 17, 18, 11, 3, 255, 65535, 2**31, 2**62, -(2**62))


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A TokenSet with a change."""
    path = room / "tokens.npz"
    original = read(corpus / "tokens.npz")
    assert original is not None
    how = random.choice(("arrays", "arrays", "header", "bytes", "archive"))
    if how == "arrays":
        arrays, said = changed(dict(original), random)
        np.savez_compressed(path, **arrays) if random.random() < 0.5 else np.savez(path, **arrays)
    elif how == "header":
        said = with_header(path, original, random)
    elif how == "bytes":
        data, said = blobs.change((corpus / "tokens.npz").read_bytes(), random)
        path.write_bytes(data)
    else:
        said = odd_archive(path, original, random)
    found = read(path)
    wrong = "" if valid(found) else "tokens that are no TokenSet of the model were taken"
    if not wrong and how == "bytes" and not all(np.array_equal(found[name], original[name]) for name in original):
        wrong = "damaged tokens were taken"
    model = str(corpus / "model")
    arguments = ("verify", model, model, "--tokens", str(path), "--threads", "1")
    return Case(arguments, said, wrong, named="tokens", breach=True)


def changed(arrays: dict[str, Any], random: Random) -> tuple[dict[str, Any], str]:
    """Arrays with a wrong value, format, shape or name."""
    name = random.choice(sorted(arrays))
    array = arrays[name].astype(np.int64)
    how = random.choice(("value", "value", "format", "shape", "missing", "more", "empty"))
    said = f"{name}: {how}"
    if how == "value":
        value = random.choice(BAD)
        array.flat[random.randrange(array.size)] = value
        arrays[name], said = array, f"{said} {value}"
    elif how == "format":
        kind = random.choice(("f4", "f8", "c8", "U3", "S3", "M8[s]", "m8[s]", "O", "?", "u8", "i1", ">i4", "f2", "V2"))
        arrays[name] = array.astype("i8").astype(kind) if kind[0] not in "V" else array.astype("u2").view("V2")
        if kind[0] == "f" and random.random() < 0.5:
            arrays[name].flat[0] = random.choice((np.nan, np.inf, 0.9))
        said = f"{said} {kind}"
    elif how == "shape":
        arrays[name] = random.choice(
            (array[:-1], array[..., None], array.ravel(), array[0], np.stack([array] * 2), array.T)
        )
    elif how == "missing":
        del arrays[name]
    elif how == "more":
        arrays[random.choice(("features", "token", "x"))] = random.choice((array, np.full((60, 5, 6), np.nan, "f4")))
    else:
        arrays = {each: arrays[each][:0] for each in arrays}
    return arrays, said


def with_header(path: Path, arrays: dict[str, Any], random: Random) -> str:
    """Write the set; the text in front of its tokens is changed, and the archive's checksum fits."""
    old, new = random.choice(HEADERS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            data = buffer.getvalue()
            if name == "tokens":
                length = int.from_bytes(data[8:10], "little")
                text = data[10 : 10 + length].decode().replace(old, new, 1).rstrip()
                header = text.encode().ljust(length - 1)[: max(length - 1, len(text))] + b"\n"
                data = data[:8] + len(header).to_bytes(2, "little") + header + data[10 + length :]
            archive.writestr(f"{name}.npy", data)
    return f"header: {old} -> {new}"


def odd_archive(path: Path, arrays: dict[str, Any], random: Random) -> str:
    """Write something else where an archive of arrays is expected; what it is."""
    how = random.choice(("npy", "pickle", "text", "bomb", "doubled", "encrypted", "lzma", "folder", "empty", "raw"))
    members = {f"{name}.npy": saved(array) for name, array in arrays.items()}
    if how == "npy":
        path.write_bytes(saved(arrays["tokens"]))
    elif how == "pickle":
        path.write_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.")
    elif how == "text":
        members["tokens.npy"] = b"no array"
    elif how == "folder":
        members = {f"x/{name}": data for name, data in members.items()}
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "raw":
        path.write_bytes(random.randbytes(1000))
    if how in ("npy", "pickle", "empty", "raw"):
        return how
    kind = zipfile.ZIP_LZMA if how == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            if how == "bomb" and name == "tokens.npy":
                with archive.open(name, "w", force_zip64=True) as file:
                    file.write(header_of((300_000_000, 16)))
                    for _ in range(64):
                        file.write(bytes(2**20))
                continue
            archive.writestr(name, data)
    if how == "doubled":
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the name is there already
            archive.writestr("tokens.npy", members["tokens.npy"][:-2] + b"\xff\xff")
    if how == "encrypted":
        data = path.read_bytes()
        data = data.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
        )
        path.write_bytes(data)
    return how


def saved(array: Any) -> bytes:
    """An array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header_of(shape: tuple[int, ...]) -> bytes:
    """The header of tokens of a shape."""
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def read(path: Path) -> dict[str, Any] | None:
    """The arrays of a file, None if NumPy cannot read them or they are too large to be meant."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > 10**7:
                return None
        with np.load(path, allow_pickle=False) as data:
            return {name: np.asarray(data[name]) for name in data.files}
    except Exception:
        return None


def valid(arrays: dict[str, Any] | None) -> bool:
    """Whether these are tokens, labels and parts that the tiny model can read."""
    if arrays is None or not {"tokens", "labels", "parts"} <= set(arrays):
        return False
    tokens, labels, parts = (arrays[name] for name in ("tokens", "labels", "parts"))
    if any(array.dtype.kind not in "iu" for array in (tokens, labels, parts)):
        return False
    if tokens.shape[1:] != (GRID[0] * GRID[1],) or not labels.shape == parts.shape == (len(tokens),) or not len(tokens):
        return False
    scored = parts == 2  # the others are not read, beyond that they are no negative numbers
    limits = ((tokens, tokens[scored], LEVELS - 1), (labels, labels[scored], CLASSES), (parts, parts, 2))
    fits = all(array.min() >= 0 and len(read) > 1 and read.max() <= most for array, read, most in limits)
    return fits and "features" not in arrays

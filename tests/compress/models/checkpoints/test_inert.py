"""A training file's other contents are passed over where they only hold data; nothing of a pickle is ever executed."""

from __future__ import annotations

import argparse
import datetime
import decimal
import fractions
import io
import os
import pathlib
import pickle
import types
import uuid
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.inert import HARMLESS, place_of

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3)}
HARMLESS_VALUES = {
    "numpy scalar": np.float64(1.5),
    "numpy bool": np.bool_(True),
    "numpy array": np.arange(3),
    "numpy array of objects": np.array([None, "a", 3], dtype=object),
    "numpy dtype": np.dtype("float32"),
    "numpy type": np.float32,
    "path": pathlib.PurePosixPath("/x"),
    "this machine's path": Path("/x"),
    "namespace": argparse.Namespace(out=Path("/x"), lr=np.float32(1e-4)),
    "simple namespace": types.SimpleNamespace(a=1),
    "ordered": OrderedDict(a=1),
    "counter": Counter("aab"),
    "defaultdict": defaultdict(list, {"a": [1]}),
    "date": datetime.date(2024, 1, 2),
    "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(1),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=3),
    "set": {1, 2},
    "complex": 1j,
    "bytes": b"abc",
    "size": torch.Size([1]),
    "dtype": torch.float16,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", HARMLESS_VALUES)
def test_what_only_holds_data_is_passed_over(tmp_path: Path, kind: str, zipped: bool) -> None:
    content = {"model": STATE, "best": HARMLESS_VALUES[kind], "epoch": 3}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(Checkpoint.open(tmp_path / "m.pt")["a.weight"], STATE["a.weight"])


def call(function: object, *given: object) -> type:
    """A class whose pickle calls a function."""

    class Trap:
        def __reduce__(self) -> tuple:
            return function, given

    return Trap


def objects(tmp_path: Path) -> dict[str, object]:
    """Contents that would write a file if anything in them was executed."""
    sprung = str(tmp_path / "sprung")
    touch = call(Path.touch, Path(sprung))
    system = call(os.system, f"touch {sprung}")
    array = np.empty(2, dtype=object)
    array[:] = [system(), 1]
    return {
        "a method": touch(),
        "the shell": system(),
        "eval": call(eval, f"open({sprung!r}, 'w')")(),
        "an array of objects": array,
        "in a namespace": argparse.Namespace(x=system()),
        "as a key": {system(): 1},
        "in a list": [system()],
        "getattr": call(getattr, Path(sprung), "touch")(),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", list(objects(Path("x"))))
def test_code_is_refused_by_name_and_never_executed(tmp_path: Path, kind: str, zipped: bool) -> None:
    content = {"model": STATE, "callbacks": objects(tmp_path)[kind]}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="nothing in it was executed") as caught:
        Checkpoint.open(tmp_path / "m.pt")
    assert not (tmp_path / "sprung").exists()
    assert "\n" not in str(caught.value)


class Trainer:
    """A class of somebody's training code."""


def test_the_class_that_is_refused_and_its_place_are_named(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": {"lr": 1.0, "trainer": Trainer()}}, tmp_path / "m.pt")
    with pytest.raises(InputError) as caught:
        Checkpoint.open(tmp_path / "m.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'm.pt'}: holds '{Trainer.__module__}.Trainer' behind 'trainer', "
        "which is not known to hold data only; nothing in it was executed; "
        "save a plain state dict (name to tensor) or safetensors"
    )


def test_no_function_of_another_library_is_among_the_harmless() -> None:
    assert not any(name.endswith((".eval", ".exec", ".getattr", ".system", ".open")) for name in HARMLESS)
    assert len(set(HARMLESS)) == len(HARMLESS)


def test_the_place_of_a_class_in_damaged_bytes_is_unknown() -> None:
    assert place_of(io.BytesIO(b"\x80\x02X\xff\xff"), "a.B") == ""
    assert place_of(io.BytesIO(pickle.dumps({"k": Trainer()}, protocol=2)), "no.Such") == ""

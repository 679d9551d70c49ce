"""Golden files of `models check`."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from fuzz import blobs
from fuzz.case import Case
from fuzz.kinds.checkpoints import GOLDEN

NAMES = ("llamagen-vq", "titok-pixels", "llamagen-c2i", "imagegpt", "rar", "var", "halton-maskgit", "taming-mingpt")
# An export takes seconds, and sees nothing of the file: the model itself stands for its engine, a number for a picture.
QUICK: dict[str, Any] = {
    "compress.verifying.golden.exported": lambda model, room: model,
    "compress.verifying.golden.pictures_of": lambda tokenizer: SimpleNamespace(decoder_graph=None),
    "compress.verifying.golden.plain_graph": lambda *given: None,
    "compress.verifying.golden.run_graph": lambda *given: np.zeros((1, 1, 1, 1), np.float32),
}


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A golden file that is cut, lacks an array, or has one of another shape or format."""
    name = random.choice(NAMES)
    path, wrong = room / "golden.npz", ""
    if random.random() < 0.5:
        data, said = blobs.change((GOLDEN / name / "golden.npz").read_bytes(), random)
        path.write_bytes(data)
    else:
        with np.load(GOLDEN / name / "golden.npz") as file:
            arrays = {each: file[each] for each in file.files}
        each = random.choice(sorted(arrays))
        how = random.choice(("missing", "text", "shape", "nan", "flat", "date", "huge"))
        array, said = arrays.pop(each), f"{each}: {how}"
        if how == "text":
            arrays[each] = array.astype("U8")
        elif how == "shape":
            arrays[each] = array[..., :-1] if array.ndim and array.shape[-1] > 1 else array[None]
        elif how == "nan":
            arrays[each] = np.full(array.shape, np.nan)
        elif how == "flat":
            arrays[each] = array.ravel()
        elif how == "date":
            arrays[each] = array.astype("i8").astype("M8[s]")
        elif how == "huge":
            arrays[each] = np.full(array.shape, 2**40)
        if how in ("text", "date"):
            wrong = "a golden array that holds no numbers was taken"
        np.savez(path, **arrays)
    arguments = ("models", "check", str(GOLDEN / name), "--golden", str(path))
    return Case(arguments, f"{name}: {said}", wrong, breach=True, instead=QUICK)

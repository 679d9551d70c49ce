"""Which pictures a drafted recipe measures on: given ones, those that a model was trained on, or some to come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress.core.settings import InputError
from compress.core.strict_json import read_json
from compress.core.user_files import user_path
from compress.data.tokens import SHIPPED, check_fits, open_source, pictures_in
from compress.drafting.facts import Facts
from compress.models import zoo

HELD_OUT = 0.2  # what `compress tokens` sets apart
VALIDATION = 0.05
FEWEST = 2  # held-out pictures that a recipe takes
NAMED = ("digits", *SHIPPED)
DRAWN = "drawn"


@dataclass(frozen=True)
class Pictures:
    """A source of tokens, how many of each part a recipe may ask for, and the folder that it is made of first."""

    source: str
    calibration: int
    held_out: int
    folder: str = ""  # of pictures, from which `compress tokens` makes the source
    remark: str = ""
    note: str = ""  # what else has to be in the source


def pictures_for(facts: Facts, given: str, calibration: int, held_out: int) -> Pictures:
    """The pictures that are `given`, or those that fit the model; no more of them than there are.

    Raises:
        InputError: they are none, too few, or not the model's.
    """
    if given == DRAWN:
        raise InputError(
            "--tokens drawn: a recipe measures on pictures that the model did not draw; `compress verify` takes drawn. "
            "Give a TokenSet (.npz), a folder of pictures, or leave it out"
        )
    source = given or known(facts)
    own = f"{facts.name}-tokens.npz"
    if source in NAMED or Path(source).suffix == ".npz":
        tokens = open_source(source, "--tokens")
        if facts.model is not None:
            check_fits(tokens, facts.model, "--tokens")
        parts = len(tokens.part("train")), len(tokens.part("held_out"))
        return counted(source, parts, calibration, held_out)
    if not source and facts.text_needs:
        note = f"{own}: beside its tokens each picture has {facts.text_needs}. docs/data.md says how to make the file."
        return Pictures(own, calibration, held_out, remark="to be made, see above", note=note)
    if not source:
        made = f"to be made: compress tokens PICTURES -o {own}"
        return Pictures(own, calibration, held_out, folder="PICTURES", remark=made)
    folder = user_path(source, "--tokens")
    if not folder.is_dir():
        raise InputError(f"--tokens: {source} is no TokenSet (.npz), no folder of pictures, and none of "
                         f"{', '.join(NAMED)}")  # fmt: skip
    if facts.text_needs:
        raise InputError(
            f"--tokens: {source} is a folder of pictures, without texts; give a TokenSet (.npz) in which each picture "
            f"has {facts.text_needs}"
        )
    count = sum(1 for _ in pictures_in(folder))
    apart = round(HELD_OUT * count), round(VALIDATION * count)
    return counted(own, (count - sum(apart), apart[0]), calibration, held_out, source)


def counted(source: str, parts: tuple[int, int], calibration: int, held_out: int, folder: str = "") -> Pictures:
    """As many as wanted, or as there are.

    Raises:
        InputError: there are too few to measure on.
    """
    if parts[0] < 1 or parts[1] < FEWEST:
        raise InputError(
            f"--tokens {folder or source}: {parts[0]} pictures to calibrate on and {parts[1]} held out; at least 1 and "
            f"{FEWEST} are needed"
        )
    few = "fewer than usual, so intervals are wide" if parts[1] < held_out else ""
    return Pictures(source, min(calibration, parts[0]), min(held_out, parts[1]), folder, few)


def known(facts: Facts) -> str:
    """The pictures that a shipped model, or one that was trained here, was trained on; empty if they are not known."""
    folder = facts.path if facts.path.is_dir() else facts.path.parent
    if facts.source.checkpoint in zoo.names() and (name := facts.source.checkpoint.split("-")[0]) in NAMED:
        return name
    record = folder / "training.json"
    if facts.family != "reference" or not record.is_file():
        return ""
    recipe = read_json(record).get("recipe", {})
    for each in (recipe.get("pictures"), recipe.get("tokens")):
        if each and (each in NAMED or user_path(each).exists()):
            return str(each)
    return ""

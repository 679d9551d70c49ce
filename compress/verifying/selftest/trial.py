"""One engine held against what `verify`, its gates and `bisect` say; the self-test has no measure of its own."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from calibration.ranges import one_thread
from compress.core.settings import InputError, setting
from compress.core.strict_yaml import read_yaml
from compress.models.candidate import open_candidate
from compress.models.image_model import ImageModel
from compress.recipe.gates import Gate, read_gate
from compress.recipe.shipped import located_gates
from compress.verifying.bisect import bisect
from compress.verifying.comparison import DRAWN, Comparison, compare, given_of, verdict_of
from compress.verifying.selftest.bases import Base
from compress.verifying.selftest.faults import Fault
from compress.verifying.selftest.graph_edits import Edit
from compress.verifying.selftest.remembered import Remembered
from export.runtime.errors import EngineError
from export.runtime.manifest import Manifest

if TYPE_CHECKING:
    from compress.models.candidate import Candidate

PICTURES = 30  # that the reference draws, each class in turn
FOLLOWED = 10  # that `bisect` reads: one of each class
SETS = ("exact", "lossy", "tight")  # of gates: as they are shipped, and the lossy ones made tighter
# What users are told to do with the lossy set: hold it to what their engine measures, here KL 0.0075 and 0.081.
TIGHTER: Mapping[str, Any] = {"kl": 0.01, "total_variation": 0.1}
REFUSED = "refused"  # as a breach: the engine is not even opened, or its numbers cannot be judged


@dataclass(frozen=True)
class Seen:
    """What `verify` said of an engine: the measurements that broke a promise or a gate of each set."""

    exact: tuple[str, ...] = setting(doc="with the gates for engines that are equal but for rounding")
    lossy: tuple[str, ...] = setting(doc="with the gates for engines that are smaller or rounded")
    tight: tuple[str, ...] = setting(doc="with these, held to what such an engine measures")

    def by(self, gates: str) -> tuple[str, ...]:
        """By one set of gates."""
        found: tuple[str, ...] = getattr(self, gates)
        return found


@dataclass(frozen=True)
class Caught:
    """What became of one planted fault."""

    fault: str = setting(doc="what was planted")
    base: str = setting(doc="the sound engine that it was planted into")
    gates: str = setting(doc="the set of gates that is for such engines")
    above: bool = setting(doc="whether it is larger than what rounding does")
    seen: Seen = setting(doc="what rang")
    places: tuple[str, ...] = setting(doc="where it was planted, in the words of `bisect`; any is right")
    named: str = setting(doc="the place that `bisect` named")

    @property
    def noticed(self) -> tuple[str, ...]:
        """What rang by the gates for such engines."""
        return self.seen.by(self.gates)

    @property
    def caught(self) -> bool:
        """Whether it was noticed."""
        return bool(self.noticed)

    @property
    def placed(self) -> bool:
        """Whether it was named where it is."""
        return self.named in self.places


def edited(engine: Path, folder: Path, edits: Mapping[str, Edit], settings: Mapping[str, Any]) -> Path:
    """A copy of an engine with graphs and settings changed, and the hashes of its manifest with them."""
    shutil.copytree(engine, folder)
    for file, edit in edits.items():
        model = onnx.load(folder / file)
        edit(model)
        onnx.save(model, folder / file)
    manifest = Manifest.load(engine)
    replace(manifest, sampler=replace(manifest.sampler, **settings)).save(folder)
    return folder


def seen(reference: Candidate, engine: Path, seed: int = 0) -> Seen:
    """What `verify` says of an engine, on pictures that the reference draws."""
    try:
        with one_thread():
            found = compare(reference, engine, None, DRAWN, PICTURES, threads=1, seed=seed)
    except (InputError, EngineError):
        return Seen(*[(REFUSED,)] * len(SETS))
    return Seen(*(breaches(found, name) for name in SETS))


@cache
def gate_called(name: str) -> Gate:
    """One of the sets of gates."""
    tight = name == "tight"
    limits = read_yaml(located_gates("lossy" if tight else name))
    assert isinstance(limits, dict)
    return read_gate({**limits, **TIGHTER} if tight else limits, name)


def breaches(found: Comparison, gates: str) -> tuple[str, ...]:
    """The measurements that break a promise or one of a set of gates."""
    verdict = verdict_of(found.results, found.evidence, (found.reference, found.candidate), gate_called(gates))
    return tuple(dict.fromkeys(each.measurement for each in verdict.breaches))


def named(sound: Path, engine: Path) -> str:
    """Where `bisect` says that an engine parts from the sound one; empty where it says nothing."""
    theirs = open_candidate(sound, 1)
    try:
        given = given_of(theirs, DRAWN, FOLLOWED, 0, 1).examples
        return bisect(theirs, open_candidate(engine, 1), ("the sound engine", "the engine"), given).departs
    except (InputError, EngineError):
        return ""


def flat(model: ImageModel) -> ImageModel:
    """The same model with a head of zeros."""
    transformer = copy.deepcopy(model.transformer)
    transformer.head.weight.data.zero_()
    return model.with_transformer(transformer)


def trial(fault: Fault, base: Base, reference: Remembered, room: Path, gates: str) -> Caught:
    """Plant one fault, and see."""
    engine = edited(base.folder, room, fault.edits, fault.settings)
    found = seen(flat(base.model) if fault.flat else reference, engine)
    return Caught(fault.name, base.name, gates, fault.above, found, fault.places, named(base.folder, engine))

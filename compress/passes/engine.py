"""The pass `engine`: what makes an exported model a faster or handier engine without changing a number of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from compress.core.settings import setting
from compress.measure.speed.timing import paired
from compress.measure.statistics import FEWEST_VALUES
from compress.passes import Context, Notes, Outcome, PassError
from compress.passes.shared.graphs import GraphPass
from export.graph.onnx_model import OnnxModel
from export.rewrites.alternatives import ALTERNATIVES, rewritten
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.devices import DOORS
from export.runtime.drawing import conditions
from export.runtime.engine import Engine as Loaded
from export.runtime.manifest import GENERATE
from export.runtime.orders import OWN
from export.targets import find


@dataclass(frozen=True, kw_only=True)
class EngineNotes(Notes):
    """What was done, and what was left out and why."""

    sampling: str | None = setting(None, doc="where tokens are chosen, or why not in the graph")
    tuned: dict[str, str] | None = setting(None, doc="the speed of each alternative against what was kept so far")
    single_file: str | None = setting(None, doc="the file of the whole generation, and its nodes")


@dataclass(frozen=True)
class Engine(GraphPass):
    """Let the decode graph choose tokens itself, so that only these leave the runtime; optionally all in one file."""

    sampling: bool = setting(True, doc="guidance, temperature, top-k, top-p and noise inside the graph")
    single_file: bool = setting(False, doc="write the whole generation as one ONNX file too: labels and seed in")

    captured: bool = setting(False, doc="sampling without branches, so that a GPU can run a step as one captured graph")
    provider_options: dict[str, dict[str, str]] | None = setting(
        None, doc="options of ONNX Runtime's execution providers, by device, that go into the manifest"
    )
    tune: bool = setting(False, doc="time other ways to compute the same on this machine, and keep what is faster")

    version: ClassVar[int] = 4
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False

    @property
    def takes_times(self) -> bool:
        """Where other ways are timed."""
        return self.tune

    def validate(self) -> None:
        """Refuse options of devices that there are not.

        Raises:
            ValueError: which.
        """
        for device in (self.provider_options or {}).keys() - DOORS.keys():
            raise ValueError(f"provider_options: {device!r} is not one of {', '.join(DOORS)}")

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The engine; its notes say what was left out, and why.

        Raises:
            PassError: the model cannot be one file.
        """
        notes = EngineNotes()
        if self.provider_options:
            options = {**model.manifest.provider_options, **self.provider_options}
            model = replace(model, manifest=replace(model.manifest, provider_options=options))
        if self.sampling:
            reason = unable(model)
            model = model if reason else with_sampling(model, branches=not self.captured)
            notes = replace(notes, sampling=reason or "in the graph")
        if self.tune:
            model, found = tuned(model, context.workspace)
            notes = replace(notes, tuned=found)
        if self.single_file:
            if (order := model.manifest.shape.order) not in OWN:
                raise PassError(f"single_file: true cannot write the steps of the order {order!r}; leave it out")
            if unable(replace(model, manifest=replace(model.manifest, sampling=False))):
                raise PassError("single_file: true needs sampling inside the graph; " + unable(model))
            generate = single_file(model)
            files = {**model.manifest.files, "generate": GENERATE}
            model = replace(model, generate=generate, manifest=replace(model.manifest, files=files))
            notes = replace(notes, single_file=f"{GENERATE}, {len(list(generate.graph.all_nodes()))} nodes")
        return Outcome(model, notes)


def unable(model: OnnxModel) -> str:
    """Why a graph cannot choose tokens itself; empty where it can."""
    manifest = model.manifest
    if manifest.sampling:
        return "was in the graph already"
    if reason := find(manifest.target).refusals.get("sampling"):
        return reason
    if manifest.fixed_batch:
        return "outside: with a fixed batch, the rows of a picture may be drawn in two calls"
    return ""


def tuned(model: OnnxModel, room: Path) -> tuple[OnnxModel, dict[str, str]]:
    """The model with every alternative that draws a picture measurably faster, and what was measured of each.

    One alternative is tried after the other, each against what was kept so far, interleaved.
    """
    threads, found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, {}
    labels, features = conditions(model.manifest.shape, 1)
    for name in ALTERNATIVES:
        decode = rewritten(model.decode, name)
        if decode is None:
            continue
        other = replace(model, decode=decode)
        runners = {}
        for which, each in (("kept", model), ("other", other)):
            folder = room / which
            folder.mkdir(parents=True, exist_ok=True)
            each.save(folder)
            engine = Loaded.load(folder, threads=threads)
            runners[which] = lambda engine=engine: engine.draw_tokens(labels, features=features)
        speedup = paired(runners, FEWEST_VALUES + 2).speedup("other", "kept")
        better = speedup.ci95[0] > 1
        model = other if better else model
        found[name] = f"{speedup.value:.3f}x ({speedup.ci95[0]:.3f} to {speedup.ci95[1]:.3f})" + better * ", kept"
    return model, found

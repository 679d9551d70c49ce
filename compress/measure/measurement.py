"""A measurement is everything that was measured of one step's model: one row of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from compress.core.settings import setting
from compress.measure.drift.coupled import Coupled
from compress.measure.drift.drawn import FidelityDrawn
from compress.measure.drift.fidelity import Fidelity
from compress.measure.drift.layers import LayerDrift
from compress.measure.drift.sampled import Sampled
from compress.measure.pictures.classify import ClassAccuracy
from compress.measure.pictures.decoding import Decoding
from compress.measure.pictures.distribution import Distribution
from compress.measure.quantity import Limit, quantity
from compress.measure.speed.single_file import SingleFile
from compress.measure.speed.timing import SpeedRow


@dataclass(frozen=True)
class Measurement:
    """One row of a report: the model after a step, or the untouched reference."""

    name: str = setting(doc="the step's name, as in the recipe")
    form: Literal["torch", "onnx", "engine"] = setting(doc="what the step's result is made of")
    parameters: int = setting(doc="weights, whatever their precision; scales do not count", low=0)
    size_bytes: int = setting(doc="bytes on disk of the weights or the engine's files", low=0)
    size_share: float | None = quantity(
        None,
        doc="size_bytes divided by the reference's",
        unit="percent",
        gate=Limit("size", "most bytes on disk, as a share of the reference's"),
    )
    fidelity: Fidelity | None = setting(None, doc="drift from the reference; null for the reference itself")
    fidelity_vs_previous: Fidelity | None = setting(None, doc="drift from the previous step")
    speed: tuple[SpeedRow, ...] = setting((), doc="one entry for each runtime and batch that was timed")
    class_accuracy: ClassAccuracy | None = setting(None, doc="how well a classifier recognises what it draws")
    low_precision_share: float | None = setting(
        None, doc="share of matrix-product time that ran in low precision, by the runtime's profile", low=0, high=1
    )
    decoding: Decoding | None = setting(None, doc="the image decoder against the reference's; null in PyTorch form")
    fidelity_drawn: FidelityDrawn | None = setting(
        None, doc="drift from the reference on pictures that the reference drew; null for the reference itself"
    )
    sampled: Sampled | None = setting(
        None, doc="drift of the sampling distribution, after guidance, temperature and cuts"
    )
    layers: tuple[LayerDrift, ...] = setting(
        (), doc="the stream behind every layer against the reference's; empty where a graph does not show them"
    )
    exact: bool = setting(False, doc="whether the step promises the same numbers as the step before it")
    notes: dict[str, Any] = field(default_factory=dict, metadata={"doc": "what the pass has to say of its work"})
    pays: str = setting(
        "",
        doc="why the step does not pay against the one before it, or the engine against the reference, or what it wins "
        "instead of speed; empty if it pays",
    )
    artifact: str = setting("", doc="the artifact's key: SHA-256 of everything that made it")
    measures: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "what every further measure found, by its name"},
    )

    def result(self, name: str) -> Any:
        """What the measure of this name found; None if nothing."""
        return getattr(self, name) if name in own_names(self) else self.measures.get(name)

    def with_results(self, results: Mapping[str, Any]) -> Self:
        """The row with what measures found, each under its name: in its own field, or among the further ones."""
        own = {name: found for name, found in results.items() if name in own_names(self)}
        further = {name: found for name, found in results.items() if name not in own}
        return replace(self, **own, measures={**self.measures, **further})


@dataclass(frozen=True)
class EngineMeasurement(Measurement):
    """One engine of a report: a measurement, and where the engine lies."""

    folder: str = setting("", doc="the engine's folder, relative to the report where it can be")
    target: str = setting("", doc="what it was exported for: onnxruntime, standard or tensorrt")
    sha256: dict[str, str] = field(default_factory=dict, metadata={"doc": "hash of each of its files"})
    single_file: SingleFile | None = setting(None, doc="the whole generation in one file; null where there is none")
    coupled: Coupled | None = setting(None, doc="its pictures against the reference's of the same classes and noise")
    distribution: Distribution | None = setting(
        None, doc="its pictures as a set against the reference's; null where no features are on hand"
    )
    not_built: str = setting("", doc="why a runtime's own files were not built on this machine; empty if they were")
    not_run: str = setting(
        "", doc="what was built of it and not run, because the runtime it is for is not here; empty if it was run"
    )

    @property
    def built(self) -> str:
        """Why it was not built, or not run, in words; empty where it was run as it is deployed."""
        if self.not_built:
            return f"not built: {self.not_built}"
        return f"built, not run: {self.not_run}" if self.not_run else ""


def own_names(row: Any) -> set[str]:
    """The names that a row of a report, or its class, has fields for; what other measures find is in its `measures`."""
    return {field.name for field in fields(row)}

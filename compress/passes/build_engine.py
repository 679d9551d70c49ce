"""The pass `build-engine`: what TensorRT builds of an exported model, where this machine has a builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from compress.core.settings import MOST_BATCH, MOST_MIB, setting
from compress.models.artifact import Form
from compress.passes import Context, Notes, Outcome, Pass, PassError
from compress.passes.shared.graphs import conforms
from export.building import BuildError, plans
from export.building.capabilities import CAPABILITIES, unknown
from export.building.profiles import Rows
from export.building.request import SECONDS, Builder, Built, Request
from export.graph.onnx_model import FILES, OnnxModel
from export.graph.weights import save_graph
from export.runtime.errors import RunnerMissingError
from export.targets import find

OPTIMIZATION_LEVEL = 3
MOST_SECONDS = 7 * 24 * 3600
WARNINGS = 10  # that are quoted


@dataclass(frozen=True)
class PlanNotes:
    """What building one graph took."""

    plan_mib: float = setting(doc="size of the plan, MiB")
    seconds: float = setting(doc="time of the build")
    processor_seconds: float = setting(doc="processor time of the build, seconds")
    peak_mib: float = setting(doc="peak memory of the builder, MiB; 0 where it is not known")


@dataclass(frozen=True, kw_only=True)
class BuildNotes(Notes):
    """What was built, where anything was."""

    builder: str | None = setting(None, doc="what built it, with its version")
    capabilities: tuple[str, ...] | None = setting(None, doc="compute capabilities that the plans are for")
    device: str | None = setting(None, doc="the device that the plans are for, where they are for this one alone")
    rows: tuple[int, ...] | None = setting(None, doc="smallest, best and largest rows of a step")
    plan_mib: float | None = setting(None, doc="size of the plan of the decode graph, MiB")
    plans: dict[str, PlanNotes] | None = setting(None, doc="what building each graph took")
    parts_not_built: dict[str, str] | None = setting(None, doc="graphs that have no plan, and why")
    warnings: tuple[str, ...] | None = setting(None, doc="the first warnings of the builder")


@dataclass(frozen=True)
class BuildEngine(Pass[OnnxModel, OnnxModel]):
    """Build TensorRT plans of an engine's graphs; without a builder the ONNX is checked, and the report says so.

    TensorRT for RTX builds on any machine, for several kinds of GPU at once; the classic TensorRT builds for the device
    that it finds. Rows are the pictures drawn at once, twice as many under guidance. The plan draws more rows than
    `max_rows` in parts. Precision is what the exported graph says: there are no precision settings here.
    """

    required: bool = setting(False, doc="fail where a graph cannot be built, instead of handing on the checked ONNX")
    builder: Literal["auto", "tensorrt-rtx", "tensorrt"] = setting(
        "auto",
        doc="what builds: auto takes the one that other settings are for, else tensorrt where it finds a device, else "
        "tensorrt-rtx",
    )
    compute_capability: tuple[float, ...] = setting(
        (),
        doc="GPUs that tensorrt-rtx builds one plan for, such as [8.6, 8.9, 12.0]; empty: those of the three that "
        "compute the graph's number formats",
    )
    max_rows: int = setting(16, doc="largest rows of a step, guidance's null rows included", low=1, high=MOST_BATCH)
    best_rows: int = setting(2, doc="rows that the kernels are tuned for", low=1, high=MOST_BATCH)
    optimization_level: int | None = setting(
        None, doc="of tensorrt alone: how long it looks for fast kernels; 3 if left out", low=0, high=5
    )
    workspace_mib: int | None = setting(
        None, doc="of tensorrt alone: device memory that a kernel may use as scratch, MiB; all if left out", low=0,
        high=MOST_MIB,
    )  # fmt: skip
    most_seconds: int = setting(SECONDS, doc="time that the build of one graph may take", low=1, high=MOST_SECONDS)

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ENGINE
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    version: ClassVar[int] = 2
    refusals: ClassVar = (BuildError,)

    def validate(self) -> None:
        """Refuse settings that contradict each other, and capabilities that nobody has.

        Raises:
            ValueError: which.
        """
        if self.best_rows > self.max_rows:
            raise ValueError(f"best_rows {self.best_rows} is more than max_rows {self.max_rows}; use at most max_rows")
        for capability in self.capabilities:
            if capability not in CAPABILITIES:
                raise ValueError(f"compute_capability: {unknown(capability)}")
        if len(set(self.capabilities)) < len(self.capabilities):
            raise ValueError(f"compute_capability: {', '.join(self.capabilities)} names one twice")
        classic = [name for name in ("optimization_level", "workspace_mib") if getattr(self, name) is not None]
        if classic and (self.builder == "tensorrt-rtx" or self.capabilities):
            raise ValueError(
                f"{classic[0]} means nothing to tensorrt-rtx, which chooses kernels on the GPU; leave it out"
            )
        if self.builder == "tensorrt" and self.capabilities:
            raise ValueError(
                "compute_capability is for tensorrt-rtx; tensorrt builds for the device that it finds, so leave it out"
            )

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that are asked for, from the oldest."""
        return tuple(f"{each:.1f}" for each in sorted(self.compute_capability))

    @property
    def chosen(self) -> Builder:
        """What builds here."""
        for_classic = self.optimization_level is not None or self.workspace_mib is not None
        return plans.chosen(self.builder, for_capabilities=bool(self.capabilities), for_classic=for_classic)

    def environment(self) -> dict[str, str]:
        """A plan is for one version, and of the classic TensorRT for one device; without either it is to be built."""
        return plans.machine(self.chosen)

    def requires(self, model: OnnxModel) -> None:
        """Refuse a model for another runtime, and one that breaks a rule of TensorRT."""
        target = model.manifest.target
        if find(target).builder is None:
            raise PassError(
                f"the model was exported for {target}, which runs the ONNX as it is: there is nothing to build; "
                f"leave build-engine out, or export with target: tensorrt"
            )
        conforms(model)

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The model with its plans, or without one and the note `not_built`.

        Raises:
            BuildError: TensorRT refuses the decode graph.
            PassError: something cannot be built here though it is `required`.
        """
        build = find(model.manifest.target).builder
        assert build is not None  # as `requires` says
        for name, graph in model.graphs.items():
            save_graph(graph, context.workspace / FILES[name])
        request = Request(
            folder=context.workspace,
            rows=self.rows(model),
            builder=self.chosen,
            capabilities=self.capabilities,
            optimization_level=OPTIMIZATION_LEVEL if self.optimization_level is None else self.optimization_level,
            workspace_mib=self.workspace_mib or 0,
            seconds=self.most_seconds,
        )
        try:
            built = build(model, request)
        except RunnerMissingError as error:
            if self.required:
                raise PassError(f"required: true, but {error}") from error
            reason = f"{error}; the ONNX is written and checked: static-legal, not built"
            return Outcome(model, BuildNotes(not_built=reason))
        if self.required and built.record is not None:
            for name, reason in built.record.not_built.items():
                raise PassError(f"required: true, but {name} cannot be built: {reason}")
        return Outcome(model.with_plans(built.plans, built.record), noted(built, request.rows))

    def rows(self, model: OnnxModel) -> Rows:
        """The rows of the plan: the export's, where it fixed them, else 1 to `max_rows`."""
        shape = model.decode.graph.inputs[0].shape
        fixed = None if shape is None else shape[0]
        return Rows(fixed, fixed, fixed) if isinstance(fixed, int) else Rows(1, self.best_rows, self.max_rows)


def noted(built: Built, rows: Rows) -> BuildNotes:
    """What is said of a build."""
    sizes = {name: round(len(plan) / 2**20, 2) for name, plan in built.plans.items()}
    notes = BuildNotes(rows=rows.sizes, plan_mib=sizes.get("decode"))
    record = built.record
    if record is None:
        return notes
    costs: Mapping[str, PlanNotes] = {
        name: PlanNotes(sizes[name], round(cost.seconds, 2), round(cost.processor_seconds, 2), round(cost.peak_mib, 1))
        for name, cost in built.costs.items()
    }
    return replace(
        notes,
        builder=record.made_by,
        capabilities=record.capabilities or None,
        device=record.device or None,
        plans=dict(costs),
        parts_not_built=record.not_built or None,
        warnings=built.warnings[:WARNINGS] or None,
    )

"""The pass `build-engine`: what TensorRT builds of an exported model, where this machine has TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress.core.settings import MOST_BATCH, MOST_MIB, setting
from compress.models.artifact import Form
from compress.passes import Context, Notes, Outcome, Pass, PassError
from compress.passes.shared.graphs import conforms
from export.graph.onnx_model import OnnxModel
from export.graph.weights import save_graph
from export.runtime.errors import RunnerMissingError
from export.runtime.manifest import DECODE
from export.runtime.tensorrt import Rows, machine
from export.targets import BuildError, find

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True, kw_only=True)
class BuildNotes(Notes):
    """What was built, where anything was."""

    rows: tuple[int, ...] | None = setting(None, doc="smallest, best and largest rows of a step")
    plan_mib: float | None = setting(None, doc="size of the plan, MiB")


@dataclass(frozen=True)
class BuildEngine(Pass[OnnxModel, OnnxModel]):
    """Build a TensorRT plan of the decode graph; without TensorRT the ONNX is checked, and the report says so.

    Rows are the pictures drawn at once, twice as many under guidance. The plan draws more rows than `max_rows` in
    parts. Precision is what the exported graph says: there are no precision settings here.
    """

    required: bool = setting(False, doc="fail where it cannot be built, instead of handing on the checked ONNX")
    max_rows: int = setting(16, doc="largest rows of a step, guidance's null rows included", low=1, high=MOST_BATCH)
    best_rows: int = setting(2, doc="rows that the kernels are tuned for", low=1, high=MOST_BATCH)
    optimization_level: int = setting(3, doc="how long the builder looks for fast kernels", low=0, high=5)
    workspace_mib: int = setting(
        0, doc="device memory that a kernel may use as scratch, MiB; 0: all of it", low=0, high=MOST_MIB
    )

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ENGINE
    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False
    refusals: ClassVar = (BuildError,)

    def validate(self) -> None:
        """Refuse rows that contradict each other.

        Raises:
            ValueError: which.
        """
        if self.best_rows > self.max_rows:
            raise ValueError(f"best_rows {self.best_rows} is more than max_rows {self.max_rows}; use at most max_rows")

    def environment(self) -> dict[str, str]:
        """A plan is for one TensorRT and one device; where there is none, it is to be built once there is."""
        return machine()

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
        """The model with its plan, or without one and the note `not_built`.

        Raises:
            BuildError: TensorRT refuses the model.
            PassError: it cannot be built here though it is `required`.
        """
        build, rows = find(model.manifest.target).builder, self.rows(model)
        assert build is not None  # as `requires` says
        path = context.workspace / DECODE
        save_graph(model.decode, path)
        try:
            plan = build(
                path,
                model.manifest,
                rows,
                context.workspace / TIMING_CACHE,
                optimization_level=self.optimization_level,
                workspace_mib=self.workspace_mib,
            )
        except RunnerMissingError as error:
            if self.required:
                raise PassError(f"required: true, but {error}") from error
            reason = f"{error}; the ONNX is written and checked: static-legal, not built"
            return Outcome(model, BuildNotes(not_built=reason))
        notes = BuildNotes(rows=(rows.smallest, rows.best, rows.largest), plan_mib=round(len(plan) / 2**20, 2))
        return Outcome(model.with_plan(plan), notes)

    def rows(self, model: OnnxModel) -> Rows:
        """The rows of the plan: the export's, where it fixed them, else 1 to `max_rows`."""
        shape = model.decode.graph.inputs[0].shape
        fixed = None if shape is None else shape[0]
        return Rows(fixed, fixed, fixed) if isinstance(fixed, int) else Rows(1, self.best_rows, self.max_rows)

"""The ONNX form of a model: the graphs of an engine and its manifest, in memory and in a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from export.graph.graph_file import GraphFileError, load_graph
from export.graph.saturation import unsafe_products
from export.graph.weights import PROTOBUF, save_graph
from export.runtime.engine_files import WEIGHTS
from export.runtime.manifest import (
    BEGIN,
    DECODE,
    GENERATE,
    IMAGE_DECODER,
    IMAGE_ENCODER,
    PLAN,
    SCALES,
    Cpu,
    EngineError,
    Manifest,
)

OPSET = 23  # the first with Attention and RMSNormalization
IR_VERSION = 11
FILES = {
    "decode": DECODE,
    "image_decoder": IMAGE_DECODER,
    "image_encoder": IMAGE_ENCODER,
    "scales": SCALES,
    "generate": GENERATE,
    "begin": BEGIN,
}


@dataclass(frozen=True)
class OnnxModel:
    """An engine in memory: the graph of a decode step with its cache, that of tokens to pictures, a plan if built.

    Where the checkpoint has it, that of pictures to tokens; of a next-scale model, that of tokens to what it reads; of
    a hoisted model, that of what is computed once before the steps. `generate` is all of it in one graph.
    """

    decode: ir.Model
    image_decoder: ir.Model
    manifest: Manifest
    plan: bytes | None = None
    image_encoder: ir.Model | None = None
    scales: ir.Model | None = None
    begin: ir.Model | None = None
    generate: ir.Model | None = None

    @property
    def graphs(self) -> dict[str, ir.Model]:
        """Every graph by its file's name in the manifest."""
        optional = {
            "image_encoder": self.image_encoder,
            "scales": self.scales,
            "begin": self.begin,
            "generate": self.generate,
        }
        present = {name: graph for name, graph in optional.items() if graph is not None}
        return {"decode": self.decode, "image_decoder": self.image_decoder, **present}

    @property
    def cpu(self) -> Cpu:
        """The processors on which ONNX Runtime's int8 kernels are right, by the weights of every graph."""
        return "vnni" if any(unsafe_products(graph) for graph in self.graphs.values()) else "any"

    def with_plan(self, plan: bytes) -> OnnxModel:
        """The same model and what TensorRT built of its decode graph."""
        return replace(self, plan=plan, manifest=replace(self.manifest, files={**self.manifest.files, "plan": PLAN}))

    def save(self, folder: Path) -> None:
        """Write an engine folder into an existing folder; many weights lie in a file beside their graph."""
        files = {name: file for name, file in self.manifest.files.items() if not name.endswith(WEIGHTS)}
        for name, graph in self.graphs.items():
            _, *beside = save_graph(graph, folder / FILES[name], PROTOBUF if name == "generate" else None)
            for path in beside:
                files[name + WEIGHTS] = path.name
        if self.plan is not None:
            (folder / PLAN).write_bytes(self.plan)
        replace(self.manifest, files=files, cpu=self.cpu).save(folder)

    @classmethod
    def load(cls, folder: Path) -> OnnxModel:
        """Read an engine folder; weights beside a graph are read from there when they are used.

        Raises:
            EngineError: it is damaged.
        """
        manifest = Manifest.load(folder)
        plan = (folder / manifest.files["plan"]).read_bytes() if "plan" in manifest.files else None
        try:
            graphs = {name: load_graph(folder / file) for name, file in manifest.files.items() if name in FILES}
        except GraphFileError as error:
            raise EngineError(str(error)) from error
        return cls(manifest=manifest, plan=plan, **graphs)


def fix_batch(model: ir.Model, batch: int) -> None:
    """Make the batch a number, for runtimes that want static shapes."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([batch if str(dim) == "batch" else dim for dim in value.shape])

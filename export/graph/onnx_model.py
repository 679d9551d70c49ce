"""The ONNX form of a model: the graphs of an engine and its manifest, in memory and in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from export.graph.card import CARD, card
from export.graph.graph_file import GraphFileError, load_graph
from export.graph.metadata import stamp
from export.graph.saturation import unsafe_products
from export.graph.weights import PROTOBUF, save_graph
from export.runtime.built import Build
from export.runtime.engine_files import PLANS, WEIGHTS
from export.runtime.manifest import (
    BEGIN,
    DECODE,
    GENERATE,
    IMAGE_DECODER,
    IMAGE_ENCODER,
    PLAN_SUFFIX,
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
    """An engine in memory: the graph of a decode step with its cache, that of tokens to pictures, plans if built.

    Where the checkpoint has it, that of pictures to tokens; of a next-scale model, that of tokens to what it reads; of
    a hoisted model, that of what is computed once before the steps. `generate` is all of it in one graph. `plans` are
    what was built of these, by the names of the graphs.
    """

    decode: ir.Model
    image_decoder: ir.Model
    manifest: Manifest
    plans: Mapping[str, bytes] = field(default_factory=dict)
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

    def with_plans(self, plans: Mapping[str, bytes], build: Build | None = None) -> OnnxModel:
        """The same model, what was built of its graphs, and the record of it."""
        files = {PLANS[name]: plan_file(name) for name in plans}
        manifest = replace(self.manifest, files={**self.manifest.files, **files}, build=build)
        return replace(self, plans=plans, manifest=manifest)

    def save(self, folder: Path) -> None:
        """Write an engine folder into an existing folder; many weights lie in a file beside their graph.

        The metadata of the graphs is written anew, in place.
        """
        files = {name: file for name, file in self.manifest.files.items() if not name.endswith(WEIGHTS)}
        for name, graph in self.graphs.items():
            stamp(graph, name, self.manifest)
            _, *beside = save_graph(graph, folder / FILES[name], PROTOBUF if name == "generate" else None)
            for path in beside:
                files[name + WEIGHTS] = path.name
        for name, plan in self.plans.items():
            (folder / plan_file(name)).write_bytes(plan)
        manifest = replace(self.manifest, files=files, cpu=self.cpu)
        manifest.save(folder)
        (folder / CARD).write_text(card(manifest), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> OnnxModel:
        """Read an engine folder; weights beside a graph are read from there when they are used.

        Raises:
            EngineError: it is damaged.
        """
        manifest = Manifest.load(folder)
        built = {name: manifest.files[role] for name, role in PLANS.items() if role in manifest.files}
        plans = {name: (folder / file).read_bytes() for name, file in built.items()}
        try:
            graphs = {name: load_graph(folder / file) for name, file in manifest.files.items() if name in FILES}
        except GraphFileError as error:
            raise EngineError(str(error)) from error
        return cls(manifest=manifest, plans=plans, **graphs)


def plan_file(name: str) -> str:
    """The file of what was built of a graph."""
    return name + PLAN_SUFFIX


def fix_batch(model: ir.Model, batch: int) -> None:
    """Make the batch a number, for runtimes that want static shapes."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([batch if str(dim) == "batch" else dim for dim in value.shape])

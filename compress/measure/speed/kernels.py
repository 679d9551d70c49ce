"""How long the product of one linear layer takes on this machine, by its shape and number format, as deployed.

A layer of a small model would lie in the processor's caches if it ran alone again and again, so a graph holds several
layers of one shape, each with weights of its own, behind one input. Graphs are timed interleaved (`timing.paired`), and
a layer's time is its graph's, divided by the layers in it.

Letters: R rows, K inputs, N outputs, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compress.core.settings import digest
from compress.measure.speed.environment import environment
from compress.measure.speed.timing import paired
from compress.measure.statistics import Estimate
from compress.models.transformer.quantized import LinearQuantization
from export import targets
from export.graph.builder import Builder, drop_unused_initializers
from export.graph.number_formats import FORMATS
from export.graph.onnx_model import IR_VERSION, OPSET
from export.rewrites.lowering import QuantizedLayer
from export.runtime.roofline import probe

TARGET = "onnxruntime"  # the only one whose kernels run on every machine
LAYERS = 8  # of one graph: what a call of a session costs besides is then below a microsecond for each
FEWEST_LAYERS = 2
GRAPH_BYTES = 2**28  # of float weights in one graph; a large layer fills the caches with fewer copies
TOGETHER_BYTES = 2**30  # of the graphs that are interleaved
REPEATS = 40  # rounds; a call takes a fraction of a millisecond
KERNELS_VERSION = 1  # goes up when the same kernel is timed otherwise


@dataclass(frozen=True)
class Kernel:
    """The product of a linear layer: R rows of K inputs with N outputs; no `spec` is float32."""

    inputs: int
    outputs: int
    spec: LinearQuantization | None = None
    rows: int = 1

    @property
    def layers(self) -> int:
        """How many stand in a graph."""
        return max(FEWEST_LAYERS, min(LAYERS, GRAPH_BYTES // self.float_bytes))

    @property
    def float_bytes(self) -> int:
        """Bytes of the weights of one layer in float32, which a graph holds at most."""
        return 4 * self.inputs * self.outputs


def key_of(kernels: Sequence[Kernel], threads: int) -> str:
    """What decides their times: store them under this key."""
    return digest("kernels", KERNELS_VERSION, kernels, threads, environment())


def milliseconds(
    kernels: Sequence[Kernel],
    threads: int = 2,
    repeats: int = REPEATS,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> dict[Kernel, Estimate]:
    """Median milliseconds of each kernel on so many threads, with the exact interval of the median.

    Those whose graphs fit into memory together are interleaved; pass the kernels that are to be compared next to each
    other. Biases and activations are not part of it.

    Raises:
        LoweringError: ONNX Runtime has no kernel for a format; the message says which it has.
    """
    found: dict[Kernel, Estimate] = {}
    wanted = list(dict.fromkeys(kernels))
    for part in parts(wanted):
        found |= interleaved(part, threads, repeats)
        report(len(found), len(wanted))
    return found


def parts(kernels: Sequence[Kernel]) -> Iterator[list[Kernel]]:
    """Runs of kernels whose graphs fit into memory together."""
    part: list[Kernel] = []
    size = 0
    for kernel in kernels:
        own = kernel.layers * kernel.float_bytes
        if part and size + own > TOGETHER_BYTES:
            yield part
            part, size = [], 0
        part.append(kernel)
        size += own
    if part:
        yield part


def interleaved(kernels: Sequence[Kernel], threads: int, repeats: int) -> dict[Kernel, Estimate]:
    """The same of kernels that are timed in the same rounds."""
    runners = {str(index): runner(kernel, threads) for index, kernel in enumerate(kernels)}
    timings = paired(runners, repeats)
    return {kernel: timings.median_ms(str(index)).times(1 / kernel.layers) for index, kernel in enumerate(kernels)}


def runner(kernel: Kernel, threads: int) -> Callable[[], object]:
    """What runs a graph of layers once."""
    exact_inputs = kernel.spec is not None and kernel.spec.activations == "none"
    session = probe(graph_of(kernel), threads, exact_inputs=exact_inputs)
    x = np.random.Generator(np.random.Philox(0)).standard_normal((kernel.rows, 1, kernel.inputs), dtype=np.float32)
    return lambda: session.run(["y0"], {"x": x})  # every layer runs; only one output is handed over


def graph_of(kernel: Kernel) -> ir.Model:
    """A graph of layers with weights of their own, all of which read `x` (R, 1, K)."""
    generator = np.random.Generator(np.random.Philox(1))
    x = ir.Value(name="x", shape=ir.Shape([kernel.rows, 1, kernel.inputs]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET}, name="kernels")
    target = targets.find(TARGET)
    for index in range(kernel.layers):
        builder = Builder(graph, None, f"layer{index}")
        if kernel.spec is None:
            weight = generator.standard_normal((kernel.inputs, kernel.outputs), dtype=np.float32)
            y = builder.add("MatMul", [x, builder.initializer("weight", weight)])
        else:
            y = target.lowered(builder, layer_of(kernel, kernel.spec, builder, index, generator), x)
        y.name = f"y{index}"
        y.shape, y.type = ir.Shape([kernel.rows, 1, kernel.outputs]), ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(y)
    drop_unused_initializers(graph)
    return ir.Model(graph, ir_version=IR_VERSION)


def layer_of(
    kernel: Kernel, spec: LinearQuantization, builder: Builder, index: int, generator: np.random.Generator
) -> QuantizedLayer:
    """A quantized layer of random codes, as a traced graph would hold it."""
    form = FORMATS[spec.weights]
    scales = (kernel.outputs, spec.groups(kernel.inputs))
    largest = int(min(spec.largest, 127))
    codes = generator.integers(-(largest // 2), largest, (kernel.outputs, kernel.inputs), endpoint=True)
    # A scale of its own: equal roundings of the one input would be computed once for all layers.
    scale = builder.initializer("scale", np.array(0.02 * (1 + index / 1000), dtype=np.float32)) if spec.static else None
    return QuantizedLayer(
        name=f"layer{index}",
        weights=spec.weights,
        activations=spec.activations,
        dynamic=spec.dynamic,
        group=spec.group,
        weight=codes.astype(np.int8 if form.storage == "int8" else form.kind),
        scale=np.full(scales, 0.01, dtype=np.float32),
        zero=None if spec.symmetric else np.zeros(scales, dtype=np.int8),
        activation_scale=scale,
    )

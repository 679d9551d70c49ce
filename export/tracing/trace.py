"""A PyTorch module as an ONNX graph that is tidy and has names a person can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import Tensor, nn

from export.graph.onnx_model import IR_VERSION, OPSET
from export.graph.quiet import quiet

SCOPES = "pkg.torch.onnx.name_scopes"


# Sizes to trace with; each is distinct and becomes symbolic.
EXAMPLE_BATCH, EXAMPLE_TOKENS, EXAMPLE_PAST, EXAMPLE_TEXT = 2, 3, 5, 7


def example_tokens(length: int) -> Tensor:
    """Tokens to trace with."""
    return torch.zeros(EXAMPLE_BATCH, length, dtype=torch.int64)


def traced(module: nn.Module, given: tuple[Any, ...], dims: tuple[Any, ...]) -> ir.Model:
    """A module as ONNX, tidy, with the named dimensions dynamic."""
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            given,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dims,
            # The exporter's own optimizer spends most of the export on rewrite rules that never fire here.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    tidy(program.model)
    return program.model


def plain_graph(module: nn.Module, given: Tensor, title: str, takes: str, *gives: str) -> ir.Model:
    """A module of one input as ONNX, its batch dynamic."""
    model = traced(module, (given,), ({0: "batch"},))
    rename(model, [takes], list(gives), title)
    return model


def tidy(model: ir.Model, may_fold: Callable[[ir.Node], bool | None] = lambda node: None) -> None:
    """Fold constants (the transposed weights among them), merge equal nodes, drop dead ones; deterministic.

    `may_fold` is asked of every node whose inputs are constant; False leaves it to the runtime.
    """
    optimizer.fold_constants(model, output_size_limit=2**31, should_fold=may_fold)
    for step in (
        common.InlinePass(),
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)


def rename(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], title: str) -> None:
    """Names of inputs, outputs, nodes and weights that a person can read; nothing of the exporter's machine stays."""
    graph = model.graph
    graph.name = title
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    used: dict[str, int] = {}
    for node in graph:
        scope = scope_of(node)
        base = f"/{scope.replace('.', '/')}/{node.op_type}" if scope else f"/{node.op_type}"
        used[base] = used.get(base, 0) + 1
        node.name = base + (f"_{used[base]}" if used[base] > 1 else "")
        node.metadata_props.clear()
        node.doc_string = None
        if node.op_type == "MatMul" and scope:
            weight = node.inputs[1]
            if weight is not None and weight.is_initializer() and not (weight.name or "").startswith("transformer."):
                weight.name = f"transformer.{scope}.weight"
    for value in list(graph.initializers.values()):
        if (value.name or "").startswith("transformer."):
            value.name = value.name.removeprefix("transformer.")  # type: ignore[union-attr]
        value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "compress", None, None, None
    model.ir_version = IR_VERSION


def scope_of(node: ir.Node) -> str:
    """The module path that made a node, as the state dict names it."""
    text = node.metadata_props.get(SCOPES, "")
    scopes = [scope.strip(" '\"") for scope in text.strip("[]").split(",")]
    modules = [scope for scope in scopes if scope.startswith("transformer.")]
    return modules[-1].removeprefix("transformer.") if modules else ""

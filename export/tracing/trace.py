"""A PyTorch module as an ONNX graph that is tidy and has names a person can read."""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
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


def exported(module: nn.Module, given: tuple[Any, ...], dims: tuple[Any, ...]) -> ir.Model:
    """A module as PyTorch's exporter writes it, with the named dimensions dynamic."""
    with quiet(), uncollected():
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
    return program.model


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, which takes a sixth of an export: it makes many objects, and few that are garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their names; tied ones have several."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def plain_graph(module: nn.Module, given: Tensor, title: str, takes: str, *gives: str) -> ir.Model:
    """A module of one input as ONNX, its batch dynamic."""
    model = exported(module, (given,), ({0: "batch"},))
    tidy(model)
    rename(model, [takes], list(gives), title, tensors(module))
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


def rename(
    model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], title: str, held: Container[str] = ()
) -> None:
    """Names that a person can read; nothing of the exporter's machine stays.

    Nodes are called after their module, what a node makes after the node, and weights as the state dict has them; a
    transformer's begin with ``transformer.``, others are in `held`. Other constants are numbered.
    """
    graph = model.graph
    graph.name = title
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    used: dict[str, int] = {}
    shown = set(graph.outputs)
    for node in graph:
        scope = scope_of(node)
        place = scope or module_of(node)
        base = f"/{place.replace('.', '/')}/{node.op_type}" if place else f"/{node.op_type}"
        used[base] = used.get(base, 0) + 1
        node.name = base + (f"_{used[base]}" if used[base] > 1 else "")
        node.metadata_props.clear()
        node.doc_string = None
        for index, value in enumerate(node.outputs):
            value.shape = None if value.shape is None else sorted_terms(value.shape)
            if value not in shown:
                value.name = f"{node.name}_output_{index}"
        if node.op_type == "MatMul" and scope:
            weight = node.inputs[1]
            if weight is not None and weight.is_initializer() and not (weight.name or "").startswith("transformer."):
                weight.name = f"transformer.{scope}.weight"
    constants = 0
    for value in list(graph.initializers.values()):
        name = value.name or ""
        if name.startswith("transformer."):
            value.name = name.removeprefix("transformer.")
        elif name not in held:
            constants += 1
            value.name = f"constant_{constants}"
        value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "compress", None, None, None
    model.ir_version = IR_VERSION


def sorted_terms(shape: ir.Shape) -> ir.Shape:
    """The shape with `tokens + past` as `past + tokens`: the exporter writes both, and equal sizes need equal names."""
    return ir.Shape(
        [
            dim if isinstance(dim, int) or dim.value is None else " + ".join(sorted(dim.value.split(" + ")))
            for dim in shape
        ]
    )


def scopes_of(node: ir.Node) -> list[str]:
    """The modules around a node, outermost first; the last is the node's own."""
    return [scope.strip(" '\"") for scope in node.metadata_props.get(SCOPES, "").strip("[]").split(",")]


def scope_of(node: ir.Node) -> str:
    """The module path that made a node of a transformer, as the state dict names it."""
    modules = [scope for scope in scopes_of(node) if scope.startswith("transformer.")]
    return modules[-1].removeprefix("transformer.") if modules else ""


def module_of(node: ir.Node) -> str:
    """The module path that made a node of another graph, such as an image decoder's."""
    modules = [scope for scope in scopes_of(node)[:-1] if scope and not scope.startswith("_")]  # PyTorch's own do
    return modules[-1] if modules else ""

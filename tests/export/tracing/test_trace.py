"""Graphs that tests remember are those that PyTorch would export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import torch
from remembered_traces import Export, key_of, remembering

from export.tracing.export import source_graph
from export.tracing.trace import plain_graph


class Scaled(torch.nn.Module):
    """A factor that the graph has as a constant, and one that is a weight."""

    def __init__(self, constant: float, weight: float) -> None:
        super().__init__()
        self.constant, self.weight = constant, torch.nn.Parameter(torch.tensor([weight, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.constant * self.weight * x


class Counted:
    """An exporter and how often it ran."""

    def __init__(self, export: Export) -> None:
        self.export, self.count = export, 0

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        self.count += 1
        return self.export(*arguments, **settings)


@pytest.fixture
def counted(fresh_export: Export) -> Counted:
    """PyTorch's exporter."""
    return Counted(fresh_export)


@pytest.fixture
def remembered(counted: Counted, tmp_path, monkeypatch) -> Callable[[Callable[[], ir.Model]], bytes]:
    """The bytes of a graph whose tracing may be remembered."""
    export = remembering(counted, tmp_path / "traces")

    def run(make: Callable[[], ir.Model]) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(torch.onnx, "export", export)
            return content(make())

    return run


def content(model: ir.Model) -> bytes:
    """The file of a graph."""
    return ir.to_proto(model).SerializeToString()


def scaled(constant: float, weight: float, length: int = 2) -> ir.Model:
    """The graph of a module with these factors, for inputs of this length."""
    return plain_graph(Scaled(constant, weight), torch.zeros(3, length), "scaled", "x", "y")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["next-scale", "int4 group"])
def test_a_remembered_graph_with_other_weights_is_the_one_that_would_be_traced(
    kind, model_of, remembered, counted
) -> None:
    model = model_of(kind).transformer
    remembered(lambda: source_graph(model))
    with torch.no_grad():
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for value in model.parameters():
            value.copy_(value.flip(0))
    try:
        assert remembered(lambda: source_graph(model)) == content(source_graph(model))
    finally:
        model.load_state_dict(before)
    assert counted.count == 1


def test_what_is_no_weight_makes_another_graph(remembered, counted) -> None:
    first = remembered(lambda: scaled(2.0, 3.0))
    assert remembered(lambda: scaled(2.0, 4.0)) == content(scaled(2.0, 4.0)) != first
    assert counted.count == 1
    assert remembered(lambda: scaled(5.0, 3.0)) != first
    assert counted.count == 2


def test_other_code_types_aliases_and_inputs_have_other_keys(monkeypatch) -> None:
    module, given = Scaled(2.0, 3.0), (torch.zeros(3, 2),)
    keys = [key_of(module, given, {}), key_of(module, given, {"opset_version": 1}), key_of(module, (given[0] + 1,), {})]
    keys += [key_of(module.double(), given, {}), key_of(Scaled(2.0, 3.0).requires_grad_(False), given, {})]
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    keys.append(key_of(module, given, {}))
    module[1].weight = module[0].weight
    keys.append(key_of(module, given, {}))
    monkeypatch.setattr(Scaled, "forward", lambda self, x: x)
    keys.append(key_of(Scaled(2.0, 3.0), given, {}))
    assert len(set(keys)) == len(keys)
    assert key_of(Scaled(2.0, 9.0), given, {}) == keys[-1]


def test_a_module_without_a_sure_key_is_traced_each_time(tmp_path) -> None:
    counted = Counted(lambda *given, **settings: "traced")
    module = Scaled(2.0, 3.0)
    module.hook = lambda: None
    for _ in range(2):
        assert remembering(counted, tmp_path / "traces")(module, (torch.zeros(3, 2),), dynamo=True) == "traced"
    assert counted.count == 2

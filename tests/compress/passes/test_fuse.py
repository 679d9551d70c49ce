"""`fuse` counts what each fusion did, says why one did nothing, and refuses what was asked for and cannot be."""

from __future__ import annotations

import pytest

from compress.core.settings import InputError, parse
from compress.models.artifact import Form
from compress.passes import PassError, find
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from export.graph.onnx_model import OnnxModel
from export.rewrites import fusions


@pytest.fixture(scope="module")
def held() -> list[OnnxModel]:
    """Holds the one exported model of these tests."""
    return []


@pytest.fixture
def model(held, tiny_model, context) -> OnnxModel:
    """A model of one layer for ONNX Runtime, whose heads are 8 wide, which GroupQueryAttention does not rotate."""
    if not held:
        held.append(Export("onnxruntime").run(tiny_model(layers=1), context()).model)
    return held[0]


def test_fuse_takes_and_gives_onnx_exactly_and_without_tokens() -> None:
    assert find("fuse", "recipe") is Fuse
    assert (Fuse.accepts, Fuse.returns, Fuse.exact, Fuse.uses_tokens) == (Form.ONNX, Form.ONNX, True, False)


def test_the_notes_count_each_fusion_and_say_why_one_matched_nothing(model, context) -> None:
    outcome = Fuse().run(model, context())
    assert outcome.notes.written() == {
        "fused": {"attention": 0, "qkv": 1, "gate-up": 1, "norm": 2, "activation": 1},
        "nodes_before": len(list(model.decode.graph)),
        "nodes": len(list(outcome.model.decode.graph)),
        "missed": {
            "attention": "stopped at /blocks/0/attention/Attention: "
            "heads are 8 wide; GroupQueryAttention wants a multiple of 16"
        },
    }
    assert outcome.notes.nodes < outcome.notes.nodes_before


def test_nothing_missed_is_not_mentioned(model, context) -> None:
    notes = Fuse(only=("qkv",)).run(model, context()).notes
    assert notes.fused == {"qkv": 1}
    # Three products become one and a Split.
    assert notes.nodes == notes.nodes_before - 1
    assert "missed" not in notes.written()


def test_a_fusion_that_was_asked_for_and_matches_nothing_is_an_error(model, context) -> None:
    with pytest.raises(PassError) as error:
        Fuse(only=("attention",)).run(model, context())
    assert str(error.value) == (
        "fuse: 'attention' matched nothing; nearest try stopped at /blocks/0/attention/Attention: "
        "heads are 8 wide; GroupQueryAttention wants a multiple of 16"
    )


def test_a_graph_that_breaks_a_rule_is_refused_with_the_first(model, context, monkeypatch) -> None:
    monkeypatch.setattr("export.targets.conformance.violations", lambda made: ["decode: /MatMul: first", "second"])
    with pytest.raises(PassError) as error:
        Fuse().run(model, context())
    assert str(error.value) == "fuse: the graph breaks a rule of onnxruntime: decode: /MatMul: first"


def test_the_setting_only_names_every_fusion_and_no_other() -> None:
    assert parse(Fuse, {"only": fusions.names()}, "r.yaml").only == tuple(fusions.names())
    with pytest.raises(InputError) as error:
        parse(Fuse, {"only": ["rope"]}, "r.yaml: passes[1] fuse")
    assert str(error.value) == (
        "r.yaml: passes[1] fuse.only[0]: 'rope' is not one of 'activation', 'attention', 'gate-up', 'norm', 'qkv'"
    )

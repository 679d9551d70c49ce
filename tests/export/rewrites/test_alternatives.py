"""Fused nodes taken apart compute the same, in every number format that packs products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.rewrites.alternatives import ALTERNATIVES, rewritten
from export.targets import fuse
from export.targets.conformance import violations

COUNTS = {"gate-up apart": "Split", "qkv apart": None, "norms apart": "SkipSimplifiedLayerNormalization"}


@pytest.mark.parametrize("kind", ["rotary", "grouped", "int8 dynamic", "int4 group", "int8 static"])
@pytest.mark.parametrize("name", ALTERNATIVES)
def test_an_alternative_scores_the_same_with_other_nodes(kind, name, exported, engine_of, inputs) -> None:
    model = fuse(exported(kind)).model
    decode = rewritten(model.decode, name)
    assert decode is not None
    other = replace(model, decode=decode)
    assert violations(other) == []
    before, after = ([node.op_type for node in each.graph] for each in (model.decode, decode))
    assert before != after
    gone = COUNTS[name]
    if gone:
        assert gone in before
        assert gone not in after
    else:
        assert all(node.inputs[1] is not None for node in decode.graph if node.op_type == "GroupQueryAttention")
    np.testing.assert_allclose(engine_of(other).score(inputs), engine_of(model).score(inputs), atol=1e-5)


def test_layer_norms_are_taken_apart_too(exported, engine_of, inputs) -> None:
    model = fuse(exported("learned")).model
    decode = rewritten(model.decode, "norms apart")
    assert decode is not None
    assert not any(node.op_type == "SkipLayerNormalization" for node in decode.graph)
    other = engine_of(replace(model, decode=decode))
    np.testing.assert_allclose(other.score(inputs), engine_of(model).score(inputs), atol=1e-5)


def test_what_is_not_fused_has_no_alternative(exported) -> None:
    assert [rewritten(exported("rotary").decode, name) for name in ALTERNATIVES] == [None] * 3

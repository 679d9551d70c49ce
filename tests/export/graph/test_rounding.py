"""Engines whose products round their inputs say so."""

from __future__ import annotations

import pytest

from compress.passes.export import Export
from compress.passes.quantize import Quantize


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        (None, False),
        ({"weights": "int8", "activations": "none"}, False),
        ({"weights": "int4", "activations": "none", "group": 32}, False),
        ({"weights": "int4", "activations": "int8", "dynamic": True, "group": 32}, True),
        ({"weights": "int8", "activations": "int8"}, True),
        ({"weights": "int8", "activations": "int8", "dynamic": True}, True),
    ],
)
def test_a_manifest_says_whether_products_round_their_inputs(tiny_model, context, settings, rounds) -> None:
    model = tiny_model()
    run = context(model)
    if settings is not None:
        model = Quantize(**settings).run(model, run).model
    assert Export("onnxruntime").run(model, run).model.manifest.rounds_inputs == rounds

"""hoist: what its notes and the report say, and what it refuses."""

from __future__ import annotations

from compress.measure import Measurement
from compress.passes import Notes
from compress.passes.export import Export
from compress.passes.hoist import Hoist
from compress.report.text.cells import flags

MASKED = {"order": "masked", "positions": "learned", "modulation": "class", "layers": 1}


def said(notes: Notes) -> list[str]:
    """The flags of a step with these notes."""
    return flags(Measurement("cpu.hoist", "onnx", 1, 1, notes=notes.written()))


def test_the_notes_and_the_report_say_what_a_step_no_longer_reads(tiny_model, context) -> None:
    model = Export(target="onnxruntime").run(tiny_model(**MASKED), context()).model
    outcome = Hoist().run(model, context())
    assert outcome.model.begin is not None
    assert model.begin is None
    numbers = outcome.notes.hoisted
    # Six vectors of 32 for the layer and two for the end, each from a matrix; there are no biases but modulation's.
    assert (numbers.values, numbers.row_bytes) == (8, 4 * 8 * 32)
    assert 0 <= numbers.weight_bytes - 4 * 8 * 32 * 33 < 256  # sizes and single numbers beside them
    assert said(outcome.notes) == [
        f"hoisted {numbers.nodes} nodes: a step reads 33.9 kB of weights less, and 1.02 kB more for each row"
    ]


def test_a_model_without_modulation_is_handed_on(tiny_model, context) -> None:
    model = Export(target="onnxruntime").run(tiny_model(layers=1), context()).model
    outcome = Hoist().run(model, context())
    assert outcome.model is model
    assert said(outcome.notes) == ["hoisted nothing: no weights are read for the class or the text alone"]


def test_a_graph_for_tensorrt_is_hoisted_too(tiny_model, context) -> None:
    model = Export(target="tensorrt").run(tiny_model(**MASKED), context()).model
    assert Hoist().run(model, context()).model.begin is not None

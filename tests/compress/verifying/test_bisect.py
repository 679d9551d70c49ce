"""Where two models part."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from compress.core.settings import InputError, parse
from compress.models.transformer.examples import examples, examples_of
from compress.passes import Context, find
from compress.passes.rotate import Rotate
from compress.passes.shared.pruning import keep_layers
from compress.verifying.bisect import bisect
from compress.verifying.places import first_departure
from export.runtime.engine import Engine

NAMES = ("reference", "candidate")
KINDS = {
    "causal": {},
    "masked": {"order": "masked", "positions": "learned"},
    "next-scale": {"order": "next-scale", "positions": "learned", "modulation": "class", "scales": (1, 2, 4),
                   "grid": (4, 4), "latent_width": 8},
}  # fmt: skip


def damaged(model, layer: int, name: str):
    made = model.with_transformer(copy.deepcopy(model.transformer))
    made.transformer.get_submodule(f"blocks.{layer}.{name}").weight.data.mul_(1.3)
    return made


def questions(model):
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, model.shape.vocabulary, (3, model.shape.length))
    return examples_of(model.shape, tokens, np.arange(3), 0)


@pytest.mark.parametrize("name", ["attention.key", "attention.output", "ffn.up"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_module_is_named_in_every_layer_and_order(kind, layer, name, tiny_model) -> None:
    model = tiny_model(layers=3, **KINDS[kind])
    found = bisect(model, damaged(model, layer, name), NAMES, questions(model))
    assert found.departs == f"blocks.{layer}"
    assert found.operator == f"blocks.{layer}.{name}"
    assert [row.relative_error for row in found.layers[: layer + 1]] == [0.0] * (layer + 1)


def test_equal_models_depart_nowhere(tiny_model) -> None:
    model = tiny_model()
    found = bisect(model, model, NAMES, questions(model))
    assert (found.departs, found.operator, found.operators) == ("", "", ())


def test_a_damaged_embedding_has_no_operators(tiny_model) -> None:
    model = tiny_model()
    made = model.with_transformer(copy.deepcopy(model.transformer))
    made.transformer.embedding.weight.data.mul_(1.1)
    found = bisect(model, made, NAMES, questions(model))
    assert (found.departs, found.operators) == ("embedding", ())


def test_two_engines_part_at_a_node(tiny_model, tiny_tokens, tmp_path) -> None:
    engines = []
    model = tiny_model(layers=3)
    for index, each in enumerate((model, damaged(model, 1, "ffn.down"))):
        folder = tmp_path / str(index)
        folder.mkdir()
        context = Context(each, tiny_tokens, 2, 0, folder)
        parse(find("export", "t"), {"target": "onnxruntime"}, "t").run(each, context).model.save(folder)
        engines.append(Engine.load(folder, threads=1))
    given = examples(model.shape, tiny_tokens.part("held_out", 3))
    found = bisect(*engines, NAMES, given)
    assert found.departs == "blocks.1"
    assert "ffn/down" in found.operator
    mixed = bisect(model, engines[1], NAMES, given)
    assert (mixed.departs, mixed.operators) == ("blocks.1", ())


def test_error_that_grows_gently_was_made_before() -> None:
    assert first_departure([0.0, 1e-6, 2e-2, 9e-2, 3e-1]) == 2
    assert first_departure([1e-6, 8e-6, 7e-5]) is None


def test_what_is_known_to_depart_is_no_departure_again() -> None:
    assert first_departure([2e-2, 3e-2], whole=[2e-2, 3e-2]) is None
    assert first_departure([1e-6, 3e-2], whole=[1e-6, 1e-6]) == 1


def test_a_pruned_model_cannot_be_followed(tiny_model) -> None:
    model = tiny_model(layers=3)
    pattern = r"candidate: 3 and 4 streams do not pair up.*can be followed as an engine of a run only"
    with pytest.raises(InputError, match=pattern):
        bisect(model, tiny_model(layers=2), NAMES, questions(model))


def test_an_engine_of_a_run_is_followed_past_the_layers_that_were_pruned(tiny_model, context, tmp_path) -> None:
    model = tiny_model(layers=3)
    pruned = model.with_transformer(keep_layers(model.transformer, [0, 2]))
    parse(find("export", "t"), {"target": "onnxruntime"}, "export").run(pruned, context(model)).model.save(tmp_path)
    with pytest.raises(InputError, match="can be followed as an engine of a run only"):
        bisect(model, Engine.load(tmp_path, threads=1), NAMES, questions(model))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["measured"] = {"layers": [{"name": name} for name in ("embedding", "blocks.0", "blocks.2")]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = bisect(model, Engine.load(tmp_path, threads=1), NAMES, questions(model))
    assert [row.name for row in found.layers] == ["embedding", "blocks.0", "blocks.2"]
    assert found.layers[1].relative_error < 1e-5
    assert found.departs == "blocks.2"
    engine = Engine.load(tmp_path, threads=1)
    assert bisect(engine, engine, NAMES, questions(model)).departs == "", "two pruned alike pair up as they are"
    manifest["measured"]["layers"][-1]["name"] = "blocks.7"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="block 7 is kept of a reference that has 3 blocks"):
        bisect(model, Engine.load(tmp_path, threads=1), NAMES, questions(model))


def test_a_rotated_model_departs_nowhere_from_its_input(tiny_model, context) -> None:
    model = tiny_model()
    made = Rotate(stream=True, values=True, down="none").run(model, context()).model
    assert bisect(model, made, NAMES, questions(model)).departs == ""


def test_a_damaged_layer_of_a_rotated_model_is_found(tiny_model, context) -> None:
    model = tiny_model(layers=3)
    made = damaged(Rotate(stream=True, down="none").run(model, context()).model, 1, "ffn.down")
    found = bisect(model, made, NAMES, questions(model))
    assert found.departs == "blocks.1"
    assert found.operators[-1].name == "blocks.1"
    assert found.operators[-1].relative_error > 1e-3

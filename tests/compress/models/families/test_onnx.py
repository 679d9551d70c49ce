"""A foreign ONNX file is a recipe's model: it is adopted, quantized, measured and drawn with like any other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from compress.cli import main
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models import families
from compress.models.adopted import stated_cache
from compress.models.artifact import Form
from compress.models.candidate import open_candidate
from compress.models.families import Source
from compress.models.families.onnx import graph_file
from compress.passes.quantize_onnx import QuantizeOnnx
from compress.recipe import plan, recipe
from compress.report import Report
from compress.running import pipeline

CONFIG = "{grid: [8, 8], image_offset: 40, start: [1], classes: [20, 21, 22, 23, 24, 25, 26, 27, 28, 29], no_class: 30}"
RECIPE = """\
model:
  checkpoint: {checkpoint}
  tokenizer: digits
  config: {config}
tokens: {{source: digits, calibration: 16, held_out: 20}}
bench:  {{batch: [1, 2], threads: 1, repeats: 6, samples: 20}}
engines:
  fused:   [fuse]
  weights: [fuse, quantize-onnx: {{weights: int4, group: 16}}]
  products: [quantize-onnx: {{activations: int8}}]
gate: {{kl: 50}}
"""


@pytest.fixture(scope="session")
def recipe_path(foreign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for a foreign decoder of digits."""
    path = tmp_path_factory.mktemp("onnx") / "foreign.yaml"
    path.write_text(RECIPE.format(checkpoint=foreign().path, config=CONFIG))
    return path


@pytest.fixture(scope="session")
def finished(recipe_path: Path) -> Report:
    """The finished run."""
    room = recipe_path.parent
    return pipeline.run(recipe.load(recipe_path), Store(room / "store"), room / "run", Silent())


def source(foreign, **changes) -> Source:
    """The model of the recipe."""
    config = {"grid": [8, 8], "image_offset": 40, "start": [1]}
    return Source(**{"checkpoint": str(foreign().path), "tokenizer": "digits", "config": config, **changes})


@pytest.mark.slow
def test_a_whole_recipe_runs(finished: Report) -> None:
    assert finished.verdict.passed
    assert finished.reference.form == "onnx"
    assert [step.name for step in finished.steps] == [
        "fused.fuse", "weights.fuse", "weights.quantize-onnx", "products.quantize-onnx",
    ]  # fmt: skip
    assert [engine.name for engine in finished.engines] == ["fused", "weights", "products"]
    exact, _, weights, products = finished.steps
    assert exact.fidelity.max_abs_difference < 1e-4
    assert 0 < products.fidelity.kl < weights.fidelity.kl
    assert weights.size_bytes < finished.reference.size_bytes


def test_every_row_is_timed_in_the_runtime_against_the_reference_and_none_in_pytorch(finished: Report) -> None:
    rows = [row for step in (finished.reference, *finished.steps) for row in step.speed]
    assert {row.runtime for row in rows} == {"onnxruntime"}
    assert {row.batch for row in rows} == {1, 2}
    assert all(row.speedup_vs_baseline is None for row in rows)
    assert all(row.speedup_vs_reference is not None for step in finished.steps for row in step.speed)


def test_the_cached_loop_is_checked_at_every_step_and_pictures_are_drawn(finished: Report, recipe_path: Path) -> None:
    for step in (finished.reference, *finished.steps):
        assert step.measures["cached_loop"].max_abs_difference < 1e-4
    assert all((recipe_path.parent / "run" / name).exists() for name in finished.pictures.values())
    assert all(engine.class_accuracy is not None for engine in finished.engines)


def test_a_second_run_takes_the_model_from_the_store(
    finished: Report, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "load_graph", lambda *given: pytest.fail("read again"))
    room = recipe_path.parent
    again = pipeline.run(recipe.load(recipe_path), Store(room / "store"), room / "again", Silent())
    assert again.steps[0].fidelity == finished.steps[0].fidelity


def test_the_plan_names_the_graph_by_its_file_and_the_libraries_that_read_it(recipe_path: Path, foreign) -> None:
    node = plan.make_plan(recipe.load(recipe_path), plan.load_tokens(recipe.load(recipe_path))).reference
    assert node.form is Form.ONNX
    assert "model.onnx" in node.made_by["files"]
    assert "onnxruntime" in node.made_by["libraries"]


def test_engines_and_the_model_of_the_recipe_are_verified_and_drawn_with(finished: Report, recipe_path: Path) -> None:
    engine = recipe_path.parent / "run" / "engines" / "fused"
    ran = CliRunner().invoke(main, ["verify", str(recipe_path), str(engine), "--held-out", "4"])
    assert ran.exit_code == 0, ran.output
    picture = recipe_path.parent / "out.png"
    ran = CliRunner().invoke(main, ["generate", str(recipe_path), "--labels", "3,1", "-o", str(picture)])
    assert ran.exit_code == 0
    assert ran.output.startswith(f"{picture}: 2 pictures in ")
    model = open_candidate(str(recipe_path), threads=1)
    np.testing.assert_array_equal(
        model.draw_tokens(np.array([3, 1]), seed=5),
        open_candidate(str(engine), 1).draw_tokens(np.array([3, 1]), seed=5),
    )
    images = model.decode_images(np.arange(64)[None] % 17)
    np.testing.assert_array_equal(model.encode_images(images), np.arange(64)[None] % 17)


def test_an_engine_folder_is_a_model_too(finished: Report, recipe_path: Path) -> None:
    engine = recipe_path.parent / "run" / "engines" / "fused"
    assert families.load_graph(Source(str(engine)), "here").shape.vocabulary == 17
    with pytest.raises(InputError, match=r"here\.tokenizer: an engine folder brings its own; leave it out"):
        families.load_graph(Source(str(engine), tokenizer="digits"), "here")


def test_a_pass_on_pytorch_is_one_clear_line(recipe_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "torch.yaml"
    path.write_text(recipe_path.read_text() + "passes: [prune-heads: {ratio: 0.5}]\n")
    with pytest.raises(InputError) as error:
        recipe.load(path)
    assert str(error.value) == (
        f"{path}: passes[0]: prune-heads takes torch, but what reaches it is onnx; "
        "this model is an ONNX graph from the beginning, so passes that take onnx apply alone"
    )


def test_a_rehearsal_is_refused_for_there_is_no_small_copy(recipe_path: Path) -> None:
    ran = CliRunner().invoke(main, ["plan", str(recipe_path), "--preflight"])
    assert ran.exit_code == 2
    assert "which has no two-layer copy to rehearse with" in ran.output


def test_inspect_says_its_size_and_check_that_there_is_no_pytorch(foreign) -> None:
    ran = CliRunner().invoke(main, ["models", "inspect", str(foreign().path), "--json"])
    assert ran.exit_code == 0, ran.output
    assert '"family": "onnx"' in ran.output
    ran = CliRunner().invoke(main, ["models", "check", str(foreign().path)])
    assert ran.exit_code == 2
    assert "is read as an ONNX graph (family onnx) and has no PyTorch form here" in ran.output


def test_the_decoder_is_found_in_a_folder(foreign, tmp_path: Path) -> None:
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx", "other.onnx"):
        shutil.copy(foreign().path, tmp_path / name)
    assert graph_file(tmp_path).name == "decoder_with_past_model.onnx"
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
        (tmp_path / name).rename(tmp_path / f"my_{name}")
    with pytest.raises(
        InputError, match=r"holds the ONNX files .*, other\.onnx; name the decoder's file as checkpoint"
    ):
        graph_file(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"tokenizer": ""},
            "here.tokenizer: a decoder brings no image tokenizer; give its weights, or a model that has",
        ),
        ({"config": {"image_offset": 40}}, "here.config: 'grid' is missing"),
        (
            {"config": {"grid": [4, 4], "image_offset": 40, "start": [1]}},
            "here.config.grid: [4, 4], but a picture of the tokenizer has 64 tokens",
        ),
        (
            {"config": {"grid": [8, 8], "image_offset": 60, "start": [1]}},
            "model.onnx: id 76 is named, but its embedding has 64 rows",
        ),
    ],
)
def test_what_a_recipe_lacks_is_named(foreign, changes, words: str) -> None:
    with pytest.raises(InputError) as error:
        families.load_graph(source(foreign, **changes), "here")
    assert words in str(error.value)


def without_positions(path: Path, folder: Path) -> Path:
    """The foreign decoder counting positions from the length of its cache."""
    proto = onnx.load(path)
    (positions,) = (value for value in proto.graph.input if value.name == "position_ids")
    proto.graph.input.remove(positions)
    helper = onnx.helper
    cells = {"zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "axes": np.array([0])}
    nodes = [
        *(helper.make_node("Constant", [], [f"p/{name}"], value=onnx.numpy_helper.from_array(np.asarray(value)))
          for name, value in cells.items()),
        helper.make_node("Shape", ["past_key_values.0.key"], ["p/past_shape"]),
        helper.make_node("Shape", ["input_ids"], ["p/ids_shape"]),
        helper.make_node("Gather", ["p/past_shape", "p/two"], ["p/past"]),
        helper.make_node("Gather", ["p/ids_shape", "p/one"], ["p/new"]),
        helper.make_node("Add", ["p/past", "p/new"], ["p/end"]),
        helper.make_node("Range", ["p/past", "p/end", "p/one"], ["p/counted"]),
        helper.make_node("Unsqueeze", ["p/counted", "p/axes"], ["position_ids"]),
    ]  # fmt: skip
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *rest])
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def test_prompts_of_different_lengths_are_refused_where_padding_cannot_be_hidden(foreign, tmp_path: Path) -> None:
    path = str(without_positions(foreign().path, tmp_path))
    config = {"grid": [8, 8], "image_offset": 40, "start": [1], "no_class": [30, 31]}
    with pytest.raises(InputError) as error:
        families.load_graph(source(foreign, checkpoint=path, config={**config, "classes": [20, [21, 22]]}), "here")
    assert str(error.value).startswith(
        f"{path}: prompts have 2 to 3 ids, and the shorter ones are padded, which this graph without position_ids does "
        "not hide: logits move by up to "
    )
    equal = source(foreign, checkpoint=path, config={**config, "classes": [[20, 3], [21, 22]]})
    assert families.load_graph(equal, "here").shape.classes == 2
    assert families.load_graph(source(foreign, config={**config, "classes": [20, [21, 22]]}), "here").shape.labelled


def test_a_decoder_that_is_quantized_already_is_scored_as_it_draws_and_not_quantized_again(
    foreign, tmp_path: Path
) -> None:
    proto = MatMulNBitsQuantizer(onnx.load(foreign().path), bits=8, block_size=16, is_symmetric=True)
    proto.process()
    onnx.save(proto.model.model, tmp_path / "int8.onnx")
    model = families.load_graph(source(foreign, checkpoint=str(tmp_path / "int8.onnx")), "here")
    assert model.manifest.call_scaled
    inputs = np.concatenate([[[17]], np.arange(63)[None] % 17], axis=1)
    np.testing.assert_array_equal(model.score(inputs), model.score_stepwise(inputs))
    with pytest.raises(InputError, match=r"quantize-onnx: 9 MatMulNBits are quantized already; begin with the graph"):
        QuantizeOnnx().run(model.model, None)


def test_heads_and_widths_come_from_the_configs_beside_a_graph(tmp_path: Path) -> None:
    assert stated_cache(tmp_path) == (0, 0)
    config = tmp_path / "config.json"
    config.write_text('{"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}')
    assert stated_cache(tmp_path) == (2, 16)
    for odd in ('"4"', "true", "[4]", "-4", "null"):
        config.write_text(f'{{"num_attention_heads": {odd}, "hidden_size": 64, "text_config": 3}}')
        assert stated_cache(tmp_path) == (0, 0)
    decoder = {"head_size": 8, "num_attention_heads": 4, "num_key_value_heads": 1}
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"decoder": decoder}}))
    assert stated_cache(tmp_path) == (1, 8)
    config.write_text("{")
    (tmp_path / "genai_config.json").unlink()
    with pytest.raises(InputError, match="not valid JSON"):
        stated_cache(tmp_path)


def test_inspect_says_what_an_onnx_file_that_is_no_decoder_lacks(tmp_path: Path) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "relu.onnx")
    ran = CliRunner().invoke(main, ["models", "inspect", str(tmp_path / "relu.onnx")])
    assert ran.exit_code == 2
    assert ran.output == (
        f"error: {tmp_path}/relu.onnx: an ONNX file, but no decoder that can be read: its inputs are x, its outputs y; "
        "of a causal decoder needed are input_ids, attention_mask, perhaps position_ids, past_key_values.0.key, "
        "past_key_values.0.value and so on; out come logits and present.0.key, present.0.value and so on\n"
    )


def test_a_pipe_beside_or_in_place_of_a_graph_is_not_waited_for(foreign, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    shutil.copy(foreign().path, tmp_path / "model.onnx")
    assert list(plan.hashes(tmp_path / "model.onnx")) == ["model.onnx"]
    os.mkfifo(tmp_path / "pipe.onnx")
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2**40)
    for name, words in (("pipe", "is no plain file"), ("huge", "has 1024.0 GiB; an ONNX file ends at 2 GiB")):
        ran = CliRunner().invoke(main, ["models", "inspect", str(tmp_path / f"{name}.onnx")])
        assert ran.exit_code == 2
        assert ran.output.startswith(f"error: {tmp_path}/{name}.onnx: ")
        assert words in ran.output
    with pytest.raises(InputError, match=r"pipe\.onnx: is no plain file; devices and pipes hold no checkpoint"):
        plan.hashes(tmp_path / "pipe.onnx")


def test_a_damaged_file_is_one_line(tmp_path: Path, foreign) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="not a readable ONNX file"):
        families.load_graph(source(foreign, checkpoint=str(tmp_path / "model.onnx")), "here")

"""Foreign ONNX decoders: of wrong structure, without positions or mask, linked, unsorted, or quantized already."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzz import corpus as seeds
from fuzz.kinds.graphs import with_endless_loop
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.core.settings import InputError
from compress.models import families
from compress.models.adopted import AdoptedModel

pytestmark = pytest.mark.usefixtures("exported_pictures")
PROMPTS = [[2], [3, 4, 5], [6, 7]]


@pytest.fixture
def load(corpus: Path) -> Callable[..., AdoptedModel]:
    """Load a decoder as a recipe would."""

    def read(path: Path, **config: Any) -> AdoptedModel:
        said = {
            "grid": [4, 4],
            "image_offset": 20,
            "start": [1],
            "classes": list(range(2, 12)),
            "no_class": 12,
            **config,
        }
        return families.load_graph(families.Source(str(path), tokenizer=str(corpus / "model"), config=said), "model")

    return read


def own_logits(path: Path, ids: list[int], mask: bool, positions: bool) -> NDArray[np.float32]:
    """Logits (N, V) of the file itself for one row of ids, without padding."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"input_ids": np.array([ids])}
    feeds |= {"attention_mask": np.ones((1, len(ids)), np.int64)} if mask else {}
    feeds |= {"position_ids": np.arange(len(ids))[None]} if positions else {}
    feeds |= {f"past_key_values.0.{part}": np.zeros((1, 1, 0, 8), np.float32) for part in ("key", "value")}
    return session.run(["logits"], feeds)[0][0]


@pytest.mark.parametrize(("mask", "positions"), [(True, True), (True, False), (False, False), (False, True)])
def test_prompts_of_different_lengths_are_scored_as_the_file_itself_does_or_refused(
    mask: bool, positions: bool, here: Path, load: Callable[..., AdoptedModel]
) -> None:
    seeds.make_foreign(here / "foreign", mask=mask, positions=positions)
    path = here / "foreign" / "model.onnx"
    try:
        model = load(path, classes=PROMPTS, no_class=[8, 9])
    except InputError:
        assert not (mask and positions)
        return
    tokens = np.random.default_rng(0).integers(0, 17, (3, 16))
    scored = model.score(np.concatenate([model.shape.first_class + np.arange(3)[:, None], tokens[:, :-1]], axis=1))
    for row, prompt in enumerate(PROMPTS):
        ids = [1, *prompt, *(20 + tokens[row, :-1])]
        own = own_logits(path, ids, mask, positions)[len(prompt) :, 20:37]
        np.testing.assert_allclose(scored[row], own, atol=1e-4)


@pytest.mark.parametrize(("mask", "positions"), [(True, False), (False, False), (False, True)])
def test_prompts_of_one_length_need_neither_positions_nor_mask(
    mask: bool, positions: bool, here: Path, load: Callable[..., AdoptedModel]
) -> None:
    seeds.make_foreign(here / "foreign", mask=mask, positions=positions)
    path = here / "foreign" / "model.onnx"
    model = load(path)
    tokens = np.random.default_rng(0).integers(0, 17, (1, 16))
    scored = model.score(np.concatenate([[[model.shape.first_class + 3]], tokens[:, :-1]], axis=1))
    own = own_logits(path, [1, 5, *(20 + tokens[0, :-1])], mask, positions)[1:, 20:37]
    np.testing.assert_allclose(scored[0], own, atol=1e-4)


def beside(folder: Path, source: Path) -> None:
    """Write the decoder with its weights, but not its short constants, in a file beside it."""
    folder.mkdir(parents=True)
    path, weights = folder / "model.onnx", "model.onnx_data"
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=weights, size_threshold=200)


def test_a_decoder_behind_the_links_of_a_cache_is_read(
    corpus: Path, here: Path, load: Callable[..., AdoptedModel]
) -> None:
    beside(here / "made", corpus / "foreign" / "model.onnx")
    snapshot = here / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (here / "blobs").mkdir()
    for name, blob in (("model.onnx", "1111"), ("model.onnx_data", "2222")):
        shutil.move(here / "made" / name, here / "blobs" / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    rows = np.full((1, 16), 3)
    rows[:, 0] = 17
    linked, plain = load(snapshot / "model.onnx"), load(corpus / "foreign" / "model.onnx")
    np.testing.assert_allclose(linked.score(rows), plain.score(rows), atol=1e-5)


def test_hard_linked_weights_beside_a_decoder_are_read(
    corpus: Path, here: Path, load: Callable[..., AdoptedModel]
) -> None:
    beside(here / "made", corpus / "foreign" / "model.onnx")
    os.link(here / "made" / "model.onnx_data", here / "backup")
    load(here / "made" / "model.onnx")


def test_nodes_in_another_order_are_sorted(corpus: Path, here: Path, load: Callable[..., AdoptedModel]) -> None:
    model = onnx.load(corpus / "foreign" / "model.onnx")
    nodes = list(model.graph.node)
    rows = np.full((1, 16), 3)
    rows[:, 0] = 17
    plain = load(corpus / "foreign" / "model.onnx").score(rows)
    for order in (nodes[::-1], [*nodes[1:], nodes[0]]):
        del model.graph.node[:]
        model.graph.node.extend(order)
        onnx.save(model, here / "moved.onnx")
        np.testing.assert_allclose(load(here / "moved.onnx").score(rows), plain, atol=1e-5)


def test_a_decoder_that_is_quantized_already_is_scored_as_it_draws(
    corpus: Path, here: Path, load: Callable[..., AdoptedModel]
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(corpus / "foreign" / "model.onnx"), str(here / "int8.onnx"), weight_type=QuantType.QInt8)
    try:
        model = load(here / "int8.onnx")
    except InputError:
        return
    rows = np.random.default_rng(0).integers(0, 17, (2, 16))
    rows[:, 0] = 17
    np.testing.assert_allclose(model.score(rows), model.score_stepwise(rows), atol=1e-5)


def test_weights_of_three_dimensions_are_quantized_into_a_graph_that_runs(
    corpus: Path, here: Path, load: Callable[..., AdoptedModel]
) -> None:
    from compress.passes.quantize_onnx import QuantizeOnnx

    model = onnx.load(corpus / "foreign" / "model.onnx")
    weights = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(
                numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor)[None]), tensor.name)
            )
    onnx.save(model, here / "three.onnx")
    rows = np.random.default_rng(0).integers(0, 17, (1, 16))
    rows[:, 0] = 17
    loaded = load(here / "three.onnx")
    plain = loaded.score(rows)
    made = QuantizeOnnx(activations="int8").run(loaded.model, None)
    assert np.abs(AdoptedModel(made.model).score(rows) - plain).max() < 0.5


@pytest.mark.parametrize("place", ["/etc/passwd", "../outside", "/dev/zero", "nothing", "..", ""])
def test_weights_outside_the_folder_are_not_read(
    place: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    (here / "outside").write_bytes(bytes(10_000))
    (here / "m").mkdir()
    beside(here / "made", corpus / "foreign" / "model.onnx")
    model = onnx.load(here / "made" / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for each in tensor.external_data:
            if each.key == "location":
                each.value = place
    (here / "m" / "model.onnx").write_bytes(model.SerializeToString())
    refused(*drawn(corpus, here, here / "m" / "model.onnx"), named=("model.onnx",))


def drawn(corpus: Path, here: Path, path: Path) -> tuple[object, ...]:
    """The command line that draws with a decoder."""
    text = (corpus / "foreign.yaml").read_text().replace(str(corpus / "foreign" / "model.onnx"), str(path))
    (here / "foreign.yaml").write_text(text)
    return ("generate", here / "foreign.yaml", "--labels", 1, "-o", here / "o.png", "--threads", 1)


@pytest.mark.parametrize("kind", ["text", "nothing", "half", "folder", "fifo", "device", "model proto without graph"])
def test_what_is_no_graph_is_refused(kind: str, corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    path, data = here / "m.onnx", (corpus / "foreign" / "model.onnx").read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes({"text": b"no graph", "nothing": b"", "half": data[: len(data) // 2]}.get(kind, b"\x08\x08"))
    refused(*drawn(corpus, here, path), named=("m.onnx",))


def test_a_loop_without_end_is_left_after_a_while(corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    model = onnx.load(corpus / "foreign" / "model.onnx")
    with_endless_loop(model)
    onnx.save(model, here / "endless.onnx")
    arguments = drawn(corpus, here, here / "endless.onnx")
    recipe = here / "foreign.yaml"
    recipe.write_text(recipe.read_text().replace("first_run_seconds: 30", "first_run_seconds: 5"))
    refused(*arguments, named=("endless.onnx",))


CONFIGS: dict[str, dict[str, Any]] = {
    "an offset beyond the vocabulary": {"image_offset": 30},
    "an offset that is huge": {"image_offset": 10**20},
    "a class beyond the vocabulary": {"classes": [40]},
    "a start beyond the vocabulary": {"start": [40]},
    "a negative class": {"classes": [-1]},
    "a class that is true": {"classes": [True]},
    "an unknown key": {"image_ofset": 20},
    "a grid of nothing": {"grid": [0, 0]},
    "another grid": {"grid": [4, 5]},
    "a huge grid": {"grid": [10**10, 10**10]},
    "ids twice": {"image_offset": None, "image_ids": [20] * 17},
    "ids of text": {"image_offset": None, "image_ids": ["x"] * 17},
    "ids in a device": {"image_offset": None, "image_ids": "/dev/zero"},
    "a temperature of NaN": {"sampler": {"temperature": float("nan")}},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_does_not_fit_the_graph_is_refused(
    kind: str, corpus: Path, load: Callable[..., AdoptedModel]
) -> None:
    with pytest.raises(InputError):
        load(corpus / "foreign" / "model.onnx", **CONFIGS[kind])

"""Plans: every artifact has a key made of all that decides it, and a reason why it is made."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from calibration.tokens import TokenSet
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models import families
from compress.recipe import plan, recipe


def reasons(path, store) -> dict[str, str]:
    made = recipe.load(path)
    store = Store(store)
    makers = store.makers()
    nodes = plan.make_plan(made, plan.load_tokens(made)).nodes
    return {node.name: plan.explain(node, store, makers) for node in nodes}


def keys(path) -> dict[str, str]:
    made = recipe.load(path)
    return {node.name: node.key for node in plan.make_plan(made, plan.load_tokens(made)).nodes}


def test_a_finished_run_is_reused(finished) -> None:
    assert reasons(finished.recipe, finished.store) == {
        "reference": "the checkpoint itself",
        "prune-heads": "reused",
        "distill": "reused",
        "quantize": "reused",
        "cpu.export": "reused",
    }


def test_a_changed_step_says_what_changed_and_keeps_those_before_it(finished) -> None:
    path = finished.changed(("steps: 90", "steps: 95"), ("patience: 0", "patience: 9"))
    assert reasons(path, finished.store) == {
        "reference": "the checkpoint itself",
        "prune-heads": "reused",
        "distill": "settings changed: steps 90 -> 95, patience 0 -> 9",
        "quantize": "its input is made first",
        "cpu.export": "its input is made first",
    }


def test_mended_code_makes_its_artifact_again_and_says_so(finished, monkeypatch) -> None:
    usual = plan.source_hash
    mended = "compress.passes.distill"
    monkeypatch.setattr(plan, "source_hash", lambda module: "mended" if module == mended else usual(module))
    assert reasons(finished.recipe, finished.store) == {
        "reference": "the checkpoint itself",
        "prune-heads": "reused",
        "distill": "its code changed",
        "quantize": "its input is made first",
        "cpu.export": "its input is made first",
    }


def test_a_key_names_the_libraries_that_make_graphs_and_the_distribution_of_a_foreign_pass(
    finished, monkeypatch
) -> None:
    monkeypatch.setattr(plan, "distribution", lambda name: {"my-passes": "0.3"} if name == "distill" else {})
    made = recipe.load(finished.recipe)
    nodes = plan.make_plan(made, plan.load_tokens(made)).nodes
    libraries = {node.name: node.made_by["libraries"] for node in nodes if node.source}
    assert all({"onnx", "onnx-ir", "onnxscript"} <= set(each) for each in libraries.values())
    assert [name for name, each in libraries.items() if "my-passes" in each] == ["distill"]
    assert reasons(finished.recipe, finished.store)["distill"] == "libraries changed: my-passes None -> '0.3'"


def test_another_seed_changes_what_uses_it_only(finished) -> None:
    before = keys(finished.recipe)
    finished.recipe.write_text(finished.recipe.read_text() + "seed: 5\n")
    after = keys(finished.recipe)
    assert before["reference"] == after["reference"]
    assert before["prune-heads"] != after["prune-heads"]
    assert reasons(finished.recipe, finished.store)["prune-heads"] == "seed changed: 0 -> 5"


def test_the_bench_and_the_gates_change_no_artifact(finished) -> None:
    before = keys(finished.recipe)
    assert keys(finished.changed(("repeats: 6", "repeats: 9"), ("gate: {kl: 50}\n", "gate: {kl: 51}\n"))) == before


def test_other_weights_change_every_key(finished, checkpoint, tmp_path) -> None:
    before = keys(finished.recipe)
    shutil.copytree(checkpoint, tmp_path / "other")
    after = keys(finished.changed((str(checkpoint), str(tmp_path / "other"))))
    assert before == after, "the folder's name is no part of the key"
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert not set(before.values()) & set(keys(finished.recipe).values())


def test_equal_passes_of_a_chain_are_numbered(finished) -> None:
    path = finished.changed(("  - quantize:", "  - prune-heads: {ratio: 0.3}\n  - quantize:"))
    assert list(keys(path)) == ["reference", "prune-heads", "distill", "prune-heads#2", "quantize", "cpu.export"]


def test_an_empty_store_explains_itself(finished, tmp_path) -> None:
    assert reasons(finished.recipe, tmp_path / "none")["prune-heads"] == "not made yet"
    assert not (tmp_path / "none").exists(), "a plan makes nothing"


def test_tokens_that_are_too_few_are_refused(finished, tmp_path) -> None:
    tokens = TokenSet(np.zeros((3, 64), int), np.zeros(3, int), np.array([0, 1, 2]))
    tokens.save(tmp_path / "t.npz")
    made = recipe.load(finished.changed(("source: digits", f"source: {tmp_path}/t.npz")))
    with pytest.raises(InputError, match=r"tiny\.yaml: tokens: 16 train pictures are asked for, but only 1 exist"):
        plan.load_tokens(made)


def test_every_part_of_a_pipeline_is_part_of_its_name(tmp_path) -> None:
    for name in (
        "model_index.json",
        "transformer/config.json",
        "tokenizer/merges.txt",
        ".cache/state.json",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = plan.hashes(tmp_path)
    assert set(found) == {"model_index.json", "transformer/config.json", "tokenizer/merges.txt"}
    assert plan.hashes(tmp_path / "transformer") == found
    (tmp_path / "tokenizer" / "merges.txt").write_text("others")
    assert plan.hashes(tmp_path) != found


def test_a_file_that_the_config_names_is_part_of_the_models_name(tmp_path, checkpoint) -> None:
    named = tmp_path / "null.npy"
    source = families.Source(str(checkpoint), config={"null_features": str(named), "n_head": 4})
    keys = []
    for content in ("one", "other"):
        named.write_text(content)
        keys.append(plan.reference_node(source, "r.yaml: model").key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("cause", [None, "cpu: vnni", "reduce_range: false"])
@pytest.mark.parametrize("saturates", [True, False])
def test_a_recipe_for_some_processors_says_what_that_means_here(tmp_path, monkeypatch, cause, saturates) -> None:
    monkeypatch.setattr("export.runtime.processor.products_saturate", lambda: saturates)
    settings = "{activations: int8}" if cause != "reduce_range: false" else "{activations: int8, reduce_range: false}"
    path = tmp_path / "r.yaml"
    path.write_text(
        f"model: {{checkpoint: digits}}\npasses: [quantize: {settings}]\n"
        "engines: {cpu: [export: {target: onnxruntime}]}\n" + ("cpu: vnni\n" if cause == "cpu: vnni" else "")
    )
    note = plan.processor_note(recipe.load(path))
    if cause is None:
        assert note is None
    else:
        assert note.startswith(f"{cause}: int8 engines are for x86 processors with VNNI; ")
        assert note.endswith("for every processor" if saturates else "this one's products do not saturate")


@pytest.mark.parametrize(
    ("step", "noted"),
    [
        ("quantize: {reduce_range: false}", False),
        ("quantize: {activations: int8, dynamic: true, reduce_range: false}", False),
        ("quantize: {activations: int8, reduce_range: true}", False),
        ("quantize: {activations: int8, reduce_range: false}", True),
    ],
)
def test_only_products_that_could_saturate_are_for_some_processors(tmp_path, step, noted) -> None:
    path = tmp_path / "r.yaml"
    engine = "engines: {cpu: [export: {target: onnxruntime}]}"
    path.write_text(f"model: {{checkpoint: digits}}\ncpu: vnni\npasses: [{step}]\n{engine}\n")
    assert (plan.processor_note(recipe.load(path)) is not None) == noted

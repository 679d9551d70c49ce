"""Checkpoints of another family, with wrong configs, missing tensors, wrapped names, odd values beside the tensors."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.models import families
from compress.models.families import rar

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
C2I = GOLDEN / "llamagen-c2i"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a published checkpoint that a test may change."""

    def copy(name: str = "llamagen-c2i") -> Path:
        target = tmp_path / "model"
        shutil.copytree(GOLDEN / name, target, ignore=shutil.ignore_patterns("golden.npz"))
        return target

    return copy


def state(folder: Path = C2I) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch file."""
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    return content.get("model", content)


def stated(folder: Path, **changes: Any) -> Path:
    """The folder with other values in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


OWN = {
    "amused": "amused", "halton-maskgit": "halton-maskgit", "imagegpt": "imagegpt", "llamagen-c2i": "llamagen",
    "llamagen-t2i": "llamagen", "rar": "rar", "taming-mingpt": "taming", "titok-bert": "titok-bert", "var": "var",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("name", OWN)
def test_a_checkpoint_is_read_as_its_own_family_only(
    name: str, family: str, invoke: Callable[..., Any], refused: Callable[..., str]
) -> None:
    arguments = ("models", "inspect", GOLDEN / name, "--family", family)
    if family == OWN[name]:
        assert invoke(*arguments).exit_code == 0
    elif family != "huggingface":  # its reader is transformers, which decides by config.json
        refused(*arguments, named=(GOLDEN / name,))


@pytest.mark.parametrize("family", ["imagegpt", "amused", "rar", "taming", "titok-bert", "halton-maskgit"])
def test_a_recipe_that_names_another_family_says_what_is_missing(
    family: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    text = (
        (corpus / "tiny.yaml")
        .read_text()
        .replace(f"checkpoint: {corpus}/model", f"checkpoint: {C2I}, family: {family}")
    )
    (here / "r.yaml").write_text(text)
    line = refused("run", here / "r.yaml", "-o", here / "run", "--store", here / "store")
    assert "missing" in line or "tokenizer" in line


def test_inspect_of_a_recipe_looks_at_its_model(here: Path, works: Callable[..., str]) -> None:
    (here / "r.yaml").write_text("model: {family: reference, checkpoint: digits}")
    digits = json.loads(works("models", "inspect", "digits", "--json"))
    for arguments in ((here / "r.yaml",), ("digits", "--family", "reference")):
        assert json.loads(works("models", "inspect", *arguments, "--json"))["parameters"] == digits["parameters"]


def test_inspect_of_what_is_no_checkpoint_says_so(
    corpus: Path, here: Path, invoke: Callable[..., Any], refused: Callable[..., str]
) -> None:
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info("x", 1, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "no decoder",
        [value],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    onnx.save(helper.make_model(graph), here / "no.onnx")
    refused("models", "inspect", here / "no.onnx", named=("no.onnx",))
    refused("models", "inspect", here, named=(here,))
    (here / "text.safetensors").write_text("no tensors")
    refused("models", "inspect", here / "text.safetensors", named=("text.safetensors",))
    assert invoke("models", "inspect", corpus / "engine").exit_code in (0, 2)


@pytest.mark.parametrize("verb", ["inspect", "check"])
@pytest.mark.parametrize("name", sorted(state()))
def test_every_missing_tensor_is_named(
    name: str, verb: str, copied: Callable[..., Path], refused: Callable[..., str]
) -> None:
    folder = copied()
    torch.save({each: tensor for each, tensor in state().items() if each != name}, folder / "checkpoint.pt")
    line = refused("models", verb, folder)
    # Without a layer's only tensor of a kind the file may look like one of fewer layers, or of another family.
    assert name in line or "missing" in line or "not part of the model" in line, line


@pytest.mark.parametrize("key", ["n_head", "rope_base", "norm_eps", "num_classes", "n_layer", "dim"])
@pytest.mark.parametrize(
    "value", [None, "x", [], {}, [1], True, -1, 0, 0.5, 10**20, -(10**20), float("nan"), float("inf"), 1e308]
)
def test_a_config_value_that_none_can_have_is_refused_or_not_read(
    key: str, value: Any, copied: Callable[..., Path], invoke: Callable[..., Any], refused: Callable[..., str]
) -> None:
    folder = stated(copied(), **{key: value})
    result = invoke("models", "inspect", folder)
    if result.exit_code == 0:  # the family takes this from the shapes, or null for its default
        return
    no_json = isinstance(value, float) and not math.isfinite(value)
    refused("models", "inspect", folder, named=("config.json",) if no_json else (key,))


def test_a_config_value_that_is_read_and_null_is_refused(
    copied: Callable[..., Path], refused: Callable[..., str]
) -> None:
    refused("models", "inspect", stated(copied(), rope_base=None), named=("rope_base",))


@pytest.mark.parametrize(
    "value", [3, "x", None, [], [1, "x"], [0], [-1, 2], [[1]], [1.5], [True], [10**20], {"a": 1}, list(range(5000))]
)
def test_a_list_in_a_config_is_a_list_of_sizes(
    value: Any, copied: Callable[..., Path], refused: Callable[..., str]
) -> None:
    refused("models", "inspect", stated(copied("var"), patch_nums=value), named=("patch_nums",))


@pytest.mark.parametrize("text", ["", "[]", "5", "null", '"x"', "{", "[" * 100_000, '{"a": 1, "a": 2}', "nan"])
def test_a_config_that_is_no_mapping_is_refused(
    text: str, copied: Callable[..., Path], refused: Callable[..., str]
) -> None:
    folder = copied()
    (folder / "config.json").write_text(text)
    refused("models", "inspect", folder, named=("config.json",))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("n_haed=2", "n_head"),
        ("n_head=99999999999999999999", "n_head"),
        ("n_head=0", "n_head"),
        ("n_head=-1", "n_head"),
        ("n_head=3.5", "n_head"),
        ("n_head=x", "n_head"),
        ("n_head=[2]", "n_head"),
        ("n_head=true", "n_head"),
        ("n_head=null", "n_head"),
        ("n_head=NaN", "n_head"),
        ("rope_base=Infinity", "rope_base"),
        ("n_head=" + "9" * 5000, "n_head"),
        ("n_head", "--set"),
        ("=2", "--set"),
        ("", "--set"),
    ],
)
def test_a_key_stated_on_the_command_line_is_checked(setting: str, named: str, refused: Callable[..., str]) -> None:
    refused("models", "inspect", C2I, "--set", setting, named=(named,))


def test_llamagen_trained_without_a_null_class_keeps_its_last_class(
    copied: Callable[..., Path], works: Callable[..., str]
) -> None:
    key, folder, weights = "cls_embedding.embedding_table.weight", copied(), state()
    classes = json.loads((folder / "config.json").read_text())["num_classes"]
    torch.save({"model": {**weights, key: weights[key][:classes].clone()}}, folder / "checkpoint.pt")
    found = json.loads(works("models", "inspect", stated(folder, class_dropout_prob=0.0), "--json"))
    assert found["config"]["classes"] == classes


class Widths(dict):
    """As much of a checkpoint as the sampler of RAR looks at."""

    config: dict[str, Any] = {}  # noqa: RUF012

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self[name]


@pytest.mark.parametrize(("width", "temperature"), [(768, 1.0), (1024, 1.02), (1280, 1.02), (1408, 1.02)])
def test_rar_draws_as_its_authors_do(width: int, temperature: float) -> None:
    # README_RAR.md of bytedance/1d-tokenizer: randomize_temperature=1.02 for rar_l, rar_xl and rar_xxl.
    assert rar.Rar().sampler(Widths(pos_embed=(1, 1, width))).temperature == temperature


def inner(wrapper: str) -> dict[str, torch.Tensor]:
    """Names with a wrapper around every block."""
    return {re.sub(r"^(layers\.\d+\.)", rf"\1{wrapper}.", name): tensor for name, tensor in state().items()}


def before(prefix: str) -> dict[str, torch.Tensor]:
    """Names with a prefix."""
    return {prefix + name: tensor for name, tensor in state().items()}


WRAPPED: dict[str, Callable[[], Any]] = {
    "module. _orig_mod.": lambda: before("module._orig_mod."),
    "_orig_mod in blocks": lambda: inner("_orig_mod"),
    "_fsdp_wrapped_module in blocks": lambda: inner("_fsdp_wrapped_module"),
    "_checkpoint_wrapped_module in blocks": lambda: inner("_checkpoint_wrapped_module"),
    "two wrappers in blocks": lambda: inner("_fsdp_wrapped_module._checkpoint_wrapped_module"),
    "Lightning": lambda: {"state_dict": before("model."), "epoch": 1},
    "an averaged model": lambda: {**before("module."), "n_averaged": torch.tensor(3)},
    "params_ema": lambda: {"params_ema": state()},
    "generator": lambda: {"generator": state()},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_names_that_training_has_wrapped_are_read_or_the_wrapper_is_named(
    kind: str,
    copied: Callable[..., Path],
    invoke: Callable[..., Any],
    refused: Callable[..., str],
    works: Callable[..., str],
) -> None:
    folder = copied()
    plain = json.loads(works("models", "inspect", C2I, "--json"))
    torch.save(WRAPPED[kind](), folder / "checkpoint.pt")
    result = invoke("models", "inspect", folder, "--json")
    if result.exit_code == 0:
        assert json.loads(result.stdout)["config"] == plain["config"]
    else:
        assert re.search(
            r"model\.|module|_orig_mod|_wrapped_module|params_ema|generator", refused("models", "inspect", folder)
        )


BESIDE: dict[str, Any] = {
    "a float": {"best": 1.5},
    "a NumPy float": {"best": np.float64(1.5)},
    "a NumPy integer": {"step": np.int64(3)},
    "a NumPy array": {"curve": np.arange(3.0)},
    "a path": {"args": argparse.Namespace(out=Path("/x"))},
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_lies_beside_the_tensors_is_let_be_or_named(
    kind: str, copied: Callable[..., Path], invoke: Callable[..., Any], refused: Callable[..., str]
) -> None:
    folder = copied()
    torch.save({"model": state(), **BESIDE[kind]}, folder / "checkpoint.pt")
    if invoke("models", "inspect", folder).exit_code != 0:
        assert re.search("numpy|pathlib", refused("models", "inspect", folder))


def test_a_device_or_a_folder_is_no_weights_file(here: Path, refused: Callable[..., str]) -> None:
    (here / "x.safetensors").mkdir()
    refused("models", "inspect", here / "x.safetensors", named=("x.safetensors",))
    (here / "zero.safetensors").symlink_to("/dev/zero")
    refused("models", "inspect", here / "zero.safetensors", named=("zero.safetensors",))

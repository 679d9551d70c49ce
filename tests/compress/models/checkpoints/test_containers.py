"""Where in a file the weights are: wrappers, prefixes, averaged weights, and sets of them."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import pytest
import torch
from small_checkpoints import OTHER, STATE, check, complaint, write
from torch import nn

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint


@pytest.mark.parametrize(
    "content",
    [
        {
            "model": STATE,
            "ema": OTHER,
            "optimizer": {"state": {0: OTHER}},
            "steps": 7,
            "args": argparse.Namespace(lr=1),
        },
        {"module": STATE, "state_dict": OTHER},
        {"state_dict": OrderedDict(STATE), "epoch": 3},
        {"iter": 1, "global_epoch": 2, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
        {"epoch": 1, "trainer": {"var_wo_ddp": STATE, "vae_local": OTHER, "var_opt": {"state": {}}, "config": {}}},
        {"trainer": {"vae_local": STATE}},
        {"ema": STATE},
        {"model": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}},
        {f"_orig_mod.{name}": nn.Parameter(tensor, requires_grad=False) for name, tensor in STATE.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_training_files_are_unwrapped(tmp_path, content, zipped):
    path = tmp_path / "last.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    check(Checkpoint.open(path))


def test_another_set_of_weights_is_taken_if_it_is_asked_for(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"model": OTHER, "ema": STATE}, path)
    check(Checkpoint.open(path, weights="ema"))
    check(Checkpoint.open(path, weights="model"), OTHER)
    assert complaint(path, weights="vae_local") == f"{path}: holds no 'vae_local'; it holds model, ema"
    torch.save({"trainer": {"var_wo_ddp": OTHER, "vae_local": STATE}}, path)
    check(Checkpoint.open(path, weights="vae_local"))
    torch.save(STATE, path)
    assert complaint(path, weights="ema") == f"{path}: holds no 'ema'; it holds one set of weights without a name"
    path = write(tmp_path / "model.safetensors")
    assert complaint(path, weights="ema") == f"{path}: holds no 'ema'; a safetensors file holds one set of weights"


def test_a_prefix_that_only_some_names_carry_stays(tmp_path):
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    check(Checkpoint.open(write(tmp_path / "a.pt", state)), state)


@pytest.mark.parametrize("content", [[1], {"model": [1]}, {"epoch": 1}, torch.ones(1)])
def test_a_pickle_without_a_state_dict_is_refused(tmp_path, content):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    assert f"holds {type(content).__name__}, not a plain state dict of tensors by name" in complaint(path)


INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module._orig_mod")


@pytest.mark.parametrize("part", INSIDE)
@pytest.mark.parametrize("place", ["before", "inside", "both"])
def test_modules_that_training_wraps_around_others_are_taken_off_names(tmp_path, part, place):
    def name(each: str) -> str:
        inner = each.replace("layers.0.", f"layers.0.{part}.").replace("layers.1.", f"layers.1.{part}.")
        return {"before": f"module.{part}.{each}", "inside": inner, "both": f"{part}.module.{inner}"}[place]

    check(Checkpoint.open(write(tmp_path / "m.pt", {name(each): tensor for each, tensor in STATE.items()})))


def test_names_that_are_the_same_without_wrapping_are_refused(tmp_path):
    state = {"layers.0.weight": torch.ones(1), "layers.0._orig_mod.weight": torch.ones(1)}
    assert complaint(write(tmp_path / "m.pt", state)).endswith(
        "two tensors are 'layers.0.weight' without the modules that training wraps around others"
    )


def test_averaged_weights_are_read_without_their_counters(tmp_path):
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in STATE.items()}}
    check(Checkpoint.open(write(tmp_path / "m.pt", averaged)))


@pytest.mark.parametrize("holder", ["params_ema", "model_ema", "generator", "ema", "ema_state_dict", "net"])
def test_the_only_set_of_weights_in_a_file_is_read_and_said(tmp_path, holder):
    torch.save({holder: STATE, "epoch": 3}, tmp_path / "m.pt")
    checkpoint = Checkpoint.open(tmp_path / "m.pt")
    check(checkpoint)
    assert checkpoint.notes == (f"the weights under '{holder}'",)


def test_of_several_sets_of_weights_the_choice_is_said_or_asked_for(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"model": STATE, "ema": OTHER}, path)
    checkpoint = Checkpoint.open(path)
    check(checkpoint)
    assert checkpoint.notes == ("the weights under 'model'; also there: ema (--set weights=ema reads it)",)
    assert (
        checkpoint.planned().notes == checkpoint.renamed(str).notes == checkpoint.stating({}).notes == checkpoint.notes
    )
    torch.save({"generator": STATE, "params_ema": OTHER}, path)
    assert complaint(path) == (
        f"{path}: holds the weights params_ema, generator; state which to read: config.weights, for example  "
        "--set weights=params_ema"
    )
    check(Checkpoint.open(path, weights="generator"))


def test_a_dotted_key_names_weights_anywhere(tmp_path):
    torch.save({"run": {"best": STATE}, "epoch": 3}, tmp_path / "m.pt")
    check(Checkpoint.open(tmp_path / "m.pt", weights="run.best"))
    assert complaint(tmp_path / "m.pt").endswith(
        "its keys are 'run', 'epoch'; state config.weights, the key of the one to read"
    )


def test_numbers_and_words_beside_tensors_are_left(tmp_path):
    check(Checkpoint.open(write(tmp_path / "m.pt", {**STATE, "epoch": 3, "note": "a", "none": None})))


def test_averaged_weights_without_names_are_refused(tmp_path):
    torch.save({"ema": {"shadow_params": [torch.ones(1)], "decay": 0.9}}, tmp_path / "m.pt")
    assert "averaged weights without names (shadow_params); copy them into the model" in complaint(tmp_path / "m.pt")


def test_what_stands_before_names_is_taken_off(tmp_path):
    state = {f"model.net.{name}": tensor for name, tensor in STATE.items()} | {"loss.weight": torch.ones(1)}
    checkpoint = Checkpoint.open(write(tmp_path / "m.pt", state))
    assert checkpoint.prefixes() == ["loss.", "model.", "model.net.", "model.net.layers.", "model.net.norm."]
    check(checkpoint.behind("model.net."))
    assert checkpoint.behind("model.net.").notes == ("the names behind 'model.net.'; 1 other tensors are left",)
    with pytest.raises(InputError, match=r"no tensor's name begins with 'other\.'"):
        checkpoint.behind("other.")

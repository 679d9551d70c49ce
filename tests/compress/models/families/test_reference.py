"""The project's own checkpoints: what is saved is what is loaded, and every bad config says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.core.settings import InputError
from compress.models import zoo
from compress.models.families import reference
from compress.models.tokenizer import tokenizer_folder
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import quantizations
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_heads import PruneHeads
from compress.passes.quantize import Quantize
from export.runtime.sampling import Sampler


@pytest.fixture
def saved(tmp_path, tiny_model):
    """A folder with a tiny model."""
    reference.save(tiny_model(), tmp_path)
    return tmp_path


def complaint(folder):
    """What `load` says of a folder, without the folder."""
    with pytest.raises(InputError) as caught:
        reference.load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def rewrite(folder, change):
    """Change config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def same(one, other, pictures):
    batch = examples(other.shape, pictures)
    assert one.transformer.config == other.transformer.config
    assert quantizations(one.transformer) == quantizations(other.transformer)
    np.testing.assert_array_equal(one.score(batch.inputs, batch.features), other.score(batch.inputs, batch.features))


def test_any_model_comes_back_as_it_was(any_model, tmp_path, any_tokens):
    reference.save(any_model, tmp_path)
    loaded = reference.load(tmp_path)
    same(loaded, any_model, any_tokens.part("held_out", 2))
    weights = any_model.tokenizer.state()
    assert (tmp_path / "tokenizer.safetensors").exists() == bool(weights)
    assert loaded.tokenizer.describe() == any_model.tokenizer.describe()
    assert loaded.tokenizer.state().keys() == weights.keys()
    for name, value in loaded.tokenizer.state().items():
        assert torch.equal(value, weights[name])
    tokens = any_tokens.tokens[:2]
    np.testing.assert_array_equal(loaded.decode_images(tokens), any_model.decode_images(tokens))
    assert loaded.sampler == any_model.sampler
    assert (loaded.name, loaded.family) == ("tiny", "reference")
    assert not loaded.transformer.training


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": "int8", "activations": "int8", "head": "same"},
        {"weights": "int4", "group": 16, "symmetric": False, "embedding": "int8"},
        {"weights": "int4", "embedding": "fp16", "head": "float"},
        {"weights": "int4", "group": 16, "symmetric": False, "embedding": "int4"},
        {"weights": "int8", "activations": "int8", "dynamic": True, "reduce_range": True},
        {"weights": "fp8", "activations": "fp8"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_pruned_and_quantized_model_comes_back_as_it_was(tiny_model, context, tmp_path, tiny_tokens, settings):
    model = PruneHeads(ratio=0.25).run(tiny_model(bias=True), context()).model
    model = PruneFfn(ratio=0.3, multiple=1, scope="global").run(model, context()).model
    model = Quantize(**settings).run(model, context()).model
    reference.save(model, tmp_path)
    loaded = reference.load(tmp_path)
    same(loaded, model, tiny_tokens.part("held_out", 2))
    assert loaded.parameters() == model.parameters()


def test_saving_twice_gives_the_same_bytes(saved, tmp_path, tiny_model):
    again = tmp_path / "again"
    again.mkdir()
    reference.save(reference.load(saved), again)
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_half_keeps_fp16_weights_which_load_as_fp32(tiny_model, tmp_path):
    model = tiny_model()
    reference.save(model, tmp_path, half=True)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    loaded = reference.load(tmp_path).transformer.state_dict()
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(loaded[name], value.half().float())


def test_half_leaves_codes_and_scales_as_they_are(tiny_model, context, tmp_path):
    model = Quantize(activations="int8").run(tiny_model(), context()).model
    reference.save(model, tmp_path, half=True)
    loaded = reference.load(tmp_path).transformer.blocks[0].ffn.up
    own = model.transformer.blocks[0].ffn.up
    for name in ("weight", "weight_scale", "activation_scale"):
        assert torch.equal(getattr(loaded, name), getattr(own, name))


def test_bf16_and_fp64_weights_load_as_fp32(saved):
    path = saved / "model.safetensors"
    state = load_file(path)
    for dtype in (torch.bfloat16, torch.float64):
        save_file({name: value.to(dtype) for name, value in state.items()}, path)
        loaded = reference.load(saved).transformer
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_plain_state_dict_serves_as_well(saved, tiny_model, suffix):
    (saved / "model.safetensors").unlink()
    torch.save(tiny_model().transformer.state_dict(), saved / f"model{suffix}")
    loaded = reference.load(saved).transformer
    assert torch.equal(loaded.embedding.weight, tiny_model().transformer.embedding.weight)


def test_the_sampler_is_saved(tiny_model, tmp_path):
    sampler = Sampler(cfg_scale=3.0, temperature=0.9, top_k=5, top_p=0.8)
    reference.save(tiny_model(sampler=sampler), tmp_path)
    assert reference.load(tmp_path).sampler == sampler


def test_a_model_without_a_name_is_called_like_its_folder(saved):
    rewrite(saved, lambda config: config.pop("name"))
    assert reference.load(saved).name == saved.name


def test_a_folder_without_config_says_what_a_checkpoint_holds(tmp_path):
    assert complaint(tmp_path) == (
        "config.json: there is no such file; a checkpoint folder holds config.json and model.safetensors"
    )


def test_a_folder_without_weights_is_refused(saved):
    (saved / "model.safetensors").unlink()
    assert complaint(saved) == "model.safetensors: there is no such checkpoint file"


@pytest.mark.parametrize(("content", "said"), [(b"{", ":1:2: not valid JSON"), (b"\xff\xfe\xfa", ": not UTF-8 text (")])
def test_an_unreadable_config_is_refused(saved, content, said):
    (saved / "config.json").write_bytes(content)
    assert complaint(saved).startswith(f"config.json{said}")


@pytest.mark.parametrize(("content", "found"), [("[1]", "[1]"), ("{}", "None"), ('{"format": 2}', "2")])
def test_another_format_is_refused(saved, content, found):
    (saved / "config.json").write_text(content)
    assert complaint(saved) == f"config.json: format is {found}; this version reads format 1"


@pytest.mark.parametrize("key", ["transformer", "tokenizer", "sampler"])
def test_a_missing_part_of_the_config_is_named(saved, key):
    rewrite(saved, lambda config: config.pop(key))
    assert complaint(saved) == f"config.json: '{key}' is missing"


@pytest.mark.parametrize("key", ["transformer", "tokenizer", "sampler", "quantized"])
def test_a_part_of_the_config_that_is_no_mapping_is_named(saved, key):
    rewrite(saved, lambda config: config.update({key: [1]}))
    assert complaint(saved) == f"config.json: {key}: [1] is not a mapping"


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("transformer", {"widht": 3}, "config.json: transformer: unknown key 'widht'; did you mean 'width'?"),
        ("transformer", {"width": "32"}, "config.json: transformer.width: '32' is not a whole number"),
        ("transformer", {"width": 0}, "config.json: transformer: width 0: must be at least 1"),
        ("transformer", {"norm": "batchnorm"}, "config.json: transformer.norm: 'batchnorm' is not one of "),
        ("transformer", {"layers": []}, "config.json: transformer: 0 layers: must be 1 to 10000"),
        ("tokenizer", {"kind": "vqq"}, "config.json: tokenizer.kind: 'vqq' is not a tokenizer; did you mean 'vq'?"),
        ("tokenizer", {"kind": "vq"}, "config.json: tokenizer: unknown key 'levels'; known: autoencoder, grid"),
        (
            "tokenizer",
            {"levels": 9},
            "config.json: tokenizer: has 9 tokens, 64 for each picture; the transformer has 17",
        ),
        ("sampler", {"top_p": 0.0}, "config.json: sampler: top_p 0.0: must be above 0 and at most 1"),
        ("quantized", {"head": {"weights": "int3"}}, "config.json: quantized.head.weights: 'int3' is not one of "),
        (
            "quantized",
            {"norm": {"weights": "int8"}},
            "config.json: quantized.norm: is not a linear layer of this model",
        ),
    ],
)
def test_wrong_values_in_the_config_are_named(saved, part, change, text):
    rewrite(saved, lambda config: config[part].update(change))
    assert complaint(saved).startswith(text)


def test_weights_of_another_width_are_refused(saved):
    rewrite(saved, lambda config: config["transformer"]["layers"][1].update(ffn=41))
    assert complaint(saved) == (
        "model.safetensors: tensor 'blocks.1.ffn.down.weight' is (32, 40); its config says (32, 41)"
    )


def test_a_layer_that_the_config_has_not_is_refused(saved):
    rewrite(saved, lambda config: config["transformer"]["layers"].pop())
    assert "is not part of the model its config describes" in complaint(saved)


def test_float_weights_do_not_pass_for_quantized_ones(saved):
    state = load_file(saved / "model.safetensors")
    save_file({**state, "head.weight_scale": torch.ones(17, 1)}, saved / "model.safetensors")
    rewrite(saved, lambda config: config["quantized"].update(head={"weights": "int8"}))
    assert complaint(saved) == "model.safetensors: tensor 'head.weight' is float32; its config says int8"


def test_nan_weights_are_refused_by_name(saved):
    state = load_file(saved / "model.safetensors")
    state["blocks.1.ffn.down.weight"][3, 3] = float("nan")
    save_file(state, saved / "model.safetensors")
    assert complaint(saved) == (
        "model.safetensors: tensor 'blocks.1.ffn.down.weight' holds 1 NaN or Inf values; the checkpoint is unusable"
    )


def test_a_shipped_tokenizer_is_shared_by_name_and_hash(saved):
    kept = json.loads((zoo.ROOT / "emoji" / "config.json").read_text())["tokenizer"]
    shared = reference.load(zoo.ROOT / "emoji").tokenizer
    for name, value in tokenizer_folder.load(zoo.ROOT / kept["name"]).state().items():
        assert torch.equal(value, shared.state()[name])

    rewrite(saved, lambda config: config.update(tokenizer={**kept, "name": "emoji-tokeniser"}))
    assert complaint(saved) == (
        "config.json: tokenizer.name: 'emoji-tokeniser' is not shipped; did you mean 'emoji-tokenizer'?"
    )
    rewrite(saved, lambda config: config.update(tokenizer={**kept, "sha256": "0" * 64}))
    assert f"the weights of emoji-tokenizer are other than '{'0' * 12}'" in complaint(saved)
    rewrite(saved, lambda config: config.update(tokenizer={**kept, "name": "../digits"}))
    assert "is not shipped" in complaint(saved)
    rewrite(saved, lambda config: config.update(tokenizer={**kept, "name": "digits"}))
    assert "'digits' is not shipped" in complaint(saved), "a model is not a tokenizer"
    rewrite(saved, lambda config: config.update(tokenizer={"kind": "shipped"}))
    assert "config.json: tokenizer" in complaint(saved)


def test_names_of_classes_survive_and_reach_the_shape(tiny_model, tmp_path) -> None:
    names = tuple("abcdefghij")
    reference.save(replace(tiny_model(), class_names=names), tmp_path)
    loaded = reference.load(tmp_path)
    assert (loaded.class_names, loaded.shape.class_names) == (names, names)
    assert loaded.with_transformer(loaded.transformer).shape.class_names == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "class_names has 1 names for 10 classes"),
        ("abc", "class_names: 'abc' is not a list"),
        ([1] * 10, "text"),
    ],
)
def test_names_that_are_not_the_classes_are_refused(tiny_model, tmp_path, names, message) -> None:
    reference.save(tiny_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "class_names": names}))
    with pytest.raises(InputError, match=message):
        reference.load(tmp_path)

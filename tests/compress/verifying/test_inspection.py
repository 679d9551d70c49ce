"""What a checkpoint is, from names and shapes alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.models.families import Source
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from compress.verifying.inspection import inspect

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


@pytest.mark.parametrize(
    ("name", "family", "kind"),
    [
        ("llamagen-c2i", "llamagen", "transformer"),
        ("halton-maskgit", "halton-maskgit", "transformer"),
        ("var", "var", "transformer"),
        ("rar-vqgan", "maskgit-vqgan", "tokenizer"),
        ("llamagen-vq", "llamagen-vq", "tokenizer"),
    ],
)
def test_a_published_file_is_recognised(name: str, family: str, kind: str) -> None:
    found = inspect(Source(str(GOLDEN / name)))
    assert (found.family, found.kind) == (family, kind)
    assert found.parameters > 0
    if kind == "transformer":
        assert sum(found.parts.values()) == pytest.approx(found.parameters, rel=0.05)
        assert found.prunable == {"layers": 3, "heads": [4] * 3, "ffn_units": found.prunable["ffn_units"]}


def test_an_unknown_file_is_told_what_is_missing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(GOLDEN / "var" / "checkpoint.safetensors")
    del state["lvl_embed.weight"]
    save_file(state, tmp_path / "var.safetensors")
    with pytest.raises(InputError, match=r"the nearest is var: 'lvl_embed.weight' is missing"):
        inspect(Source(str(tmp_path / "var.safetensors")))


@pytest.mark.slow
def test_predicted_sizes_of_engines_are_those_that_are_exported(tiny_model, context, tmp_path: Path) -> None:
    from compress.models.families import reference

    model = tiny_model(ffn=64, layers=1)
    reference.save(model, tmp_path)
    predicted = inspect(Source(str(tmp_path))).engine_bytes
    for form, settings in (("fp32", None), ("int8", {"weights": "int8"})):
        made = model if settings is None else Quantize(**settings).run(model, context()).model
        decode = Export(target="standard").run(made, context()).model.decode
        weights = sum(value.const_value.nbytes for value in decode.graph.initializers.values())
        assert weights == pytest.approx(predicted[form], rel=0.25), form  # rotary tables and shapes weigh here


def test_a_recipe_stands_for_its_model_whatever_its_family_is() -> None:
    from compress.models.candidate import source_of

    recipe = inspect(source_of(str(GOLDEN.parents[2] / "recipes" / "quickstart.yaml")))
    assert recipe == inspect(Source("digits")) == inspect(Source("digits", family="reference"))


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    import onnx_ir as ir

    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is an engine folder, not a checkpoint; `compress bench`, `verify`"):
        inspect(Source(str(tmp_path / "engine")))
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Abs(x) }'
    ir.save(ir.from_onnx_text(text), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx: an ONNX file, but no decoder that can be read: its inputs are x"):
        inspect(Source(str(tmp_path / "m.onnx")))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="holds no weights; looked for files that end in"):
        inspect(Source(str(tmp_path / "pictures")))
    with pytest.raises(InputError, match="there is no such file; a checkpoint folder holds"):
        inspect(Source(str(tmp_path / "pictures"), family="reference"))
    for name in ("a" * 5000, "~nobody-here/x", "a\0b"):
        with pytest.raises(InputError) as caught:
            inspect(Source(name))
        assert len(str(caught.value)) < 500


def test_an_own_config_with_numbers_that_no_tensor_has_is_refused(tmp_path: Path) -> None:
    import json

    from compress.models import zoo

    config = json.loads((zoo.ROOT / "digits" / "config.json").read_text())
    config["transformer"]["vocabulary"] = 10**18
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: transformer: "):
        inspect(Source(str(tmp_path)))


def test_what_is_stated_of_a_checkpoint_that_says_it_itself_is_refused() -> None:
    with pytest.raises(InputError, match=r"digits.config: a checkpoint of this project's format brings its own"):
        inspect(Source("digits", config={"n_head": 2}))


@pytest.mark.parametrize(
    ("config", "message"), [({"image_ofset": 3}, "image_offset"), ({"grid": 7}, "grid"), ({"image_offset": -1}, "-1")]
)
def test_what_is_stated_of_a_graph_is_checked(foreign, config: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inspect(Source(str(foreign().path), config=config))

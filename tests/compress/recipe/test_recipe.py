"""Recipes: the whole file is checked before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.passes.distill import Distill
from compress.recipe import recipe
from compress.recipe.gates import gate

HEAD = "model: {checkpoint: .}\n"
ENGINE = "engines: {cpu: [export: {target: onnxruntime}]}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def test_a_recipe_becomes_steps_engines_and_gates(tmp_path: Path) -> None:
    text = (
        HEAD + ENGINE + "seed: 3\npasses:\n  - distill: {steps: 5}\n    gate: {nll_drift: 2%}\ngate: {speedup: 1.5}\n"
    )
    made = recipe.load(written(tmp_path, text))
    assert made.name == "r"
    assert made.seed == 3
    assert made.steps == (recipe.Step("distill", Distill(steps=5), gate(nll_drift=0.02)),)
    assert [(engine.name, [step.name for step in engine.steps]) for engine in made.engines] == [("cpu", ["export"])]
    assert made.gate == gate(speedup=1.5)
    described = made.described()
    assert described["passes"][0]["distill"]["temperature"] == 2.0, "defaults are filled in"
    assert described["passes"][0]["gate"]["nll_drift"] == 0.02


def test_another_model_and_other_pictures_take_the_place_of_the_recipes(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + ENGINE)
    made = recipe.load(path, model="emoji", tokens="emoji")
    assert (made.model.checkpoint, made.tokens.source) == ("emoji", "emoji")
    assert made.tokens.held_out == recipe.load(path).tokens.held_out
    assert made.instead == {"model": "emoji", "tokens": "emoji"}
    with pytest.raises(InputError, match="nosuch"):
        recipe.load(path, model="nosuch")


def test_a_pass_without_settings_may_be_written_as_a_word(tmp_path: Path) -> None:
    made = recipe.load(written(tmp_path, HEAD + ENGINE + "passes: [quantize]\n"))
    assert made.steps[0].setting.weights == "int8"


def test_the_processor_that_engines_are_for_decides_what_auto_is(tmp_path: Path) -> None:
    text = (
        HEAD
        + "passes: [quantize]\n"
        + "engines: {cpu: [export: {target: onnxruntime}, decoder: {reduce_range: true}, decoder: {}]}\n"
    )
    for cpu, wanted in (("any", "auto"), ("vnni", False)):
        made = recipe.load(written(tmp_path, f"cpu: {cpu}\n{text}"))
        assert made.steps[0].setting.reduce_range == wanted
        assert [step.setting.reduce_range for step in made.engines[0].steps[1:]] == [True, wanted]
        assert made.described()["cpu"] == cpu
    with pytest.raises(InputError, match="cpu: 'amx' is not one of 'any', 'vnni'"):
        recipe.load(written(tmp_path, f"cpu: amx\n{text}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": 'model' is missing; it is needed ("),
        ("[1, 2]", ": [1, 2] is not a mapping of settings"),
        ("a: [", ":1:5: not valid YAML: expected the node content, but found '<stream end>'"),
        ("seed: 1\nseed: 2\n", ":2:1: not valid YAML: key 'seed' stands twice"),
        ("{[1]: 2}", ":1:2: not valid YAML: a key must be a word"),
        ("model: {checkpoint: 3}", ": model.checkpoint: 3 is not text"),
        (
            HEAD.replace("{", "{family: refrence, ") + ENGINE,
            ": model.family: 'refrence' is not a family; did you mean 'reference'?",
        ),
        (HEAD, ": 'engines' names no engine; for example  engines: {cpu: [export: {target: onnxruntime}]}"),
        (HEAD + "engines: {cpu: {}}", ": engines.cpu: {} is not a list of passes"),
        (HEAD + "engines: {a/b: [export]}", ": engines: 'a/b' cannot name a folder; use letters, digits, '-' and '_'"),
        (HEAD + ENGINE + "passes: [3]", ": passes[0]: 3 is not a pass; write  - name: {settings}"),
        (
            HEAD + ENGINE + "passes: [{quantize: {}, distill: {}}]",
            ": passes[0]: one pass and its gate make a step, but here stand quantize, distill",
        ),
        (
            HEAD + ENGINE + "passes: [{gate: {}}]",
            ": passes[0]: one pass and its gate make a step, but here stand gate",
        ),
        (
            HEAD + ENGINE + "passes: [{quantize: {}, gate: {nll: 2%}}]",
            ": passes[0] quantize.gate: unknown key 'nll'; did you mean 'nll_drift'?",
        ),
        (
            HEAD + ENGINE + "passes: [{prune-layers: {count: 2, ratio: 0.5}}]",
            ": passes[0] prune-layers: count 2 and ratio 0.5: give exactly one of them, above 0",
        ),
        (
            HEAD + ENGINE + "passes: [{quantize: {}, gate: {class_accuracy_drop: 1%}}]",
            ": passes[0] quantize.gate.class_accuracy_drop: measured of engines only; put it into the recipe's gate",
        ),
        (
            HEAD + ENGINE + "passes: [{quantize: {}, gate: {decoder_psnr: 40}}]",
            ": passes[0] quantize.gate.decoder_psnr: measured of image decoders, which quantize leaves alone; "
            "put it at a step behind the export or into the recipe's gate",
        ),
        (
            HEAD + ENGINE + "passes: [{quantize: {}, gate: {}}]",
            ": passes[0] quantize.gate: this gate limits nothing; write a limit, for example  nll_drift: 2%",
        ),
        (HEAD + ENGINE + "gate:", ": gate: this gate limits nothing; write a limit, for example  nll_drift: 2%"),
        (HEAD + ENGINE + "gate: {decide: estimate}", ": gate: this gate limits nothing; write a limit"),
        (
            HEAD + ENGINE + "gate: {nll_drift: 2%, speedup_batch: 8}",
            ": gate.speedup_batch: goes with speedup, which has no limit here",
        ),
        (HEAD + ENGINE + "bench: {batch: []}", ": bench.batch: has 0 items; at least 1 are needed"),
        (HEAD + ENGINE + "bench: {batch: [2, 2]}", ": bench.batch: [2, 2] names a batch twice"),
        (
            HEAD + ENGINE + "bench: {batch: [4611686018427387904]}",
            ": bench.batch: 4611686018427387904 is out of range; it must be between 1 and 65536",
        ),
        (
            HEAD + ENGINE + "passes: [distill: {steps: 9, learning_rate: 1.0e+308}]",
            ": passes[0] distill.learning_rate: 1e+308 is out of range; it must be between 0 and 1",
        ),
        (HEAD + f"engines: {{{'x' * 65}: [export]}}", f": engines: '{'x' * 65}' cannot name a folder; use letters"),
        (HEAD + "engines: {'': [export]}", ": engines: '' cannot name a folder; use letters"),
        (HEAD + "engines: {Con: [export]}", ": engines: 'Con' is a device on Windows and cannot name a folder there"),
        (
            HEAD + "engines: {cpu: [export], CPU: [export]}",
            ": engines: 'cpu' and 'CPU' are one folder where case does not count",
        ),
        (
            HEAD.replace("checkpoint: .", "checkpoint: ~nosuch-user/x") + ENGINE,
            ": model.checkpoint: '~nosuch-user/x': no user has this home folder; write the path out",
        ),
        (
            HEAD + ENGINE + "bench: {batch: [1, 8]}\ngate: {speedup: 2, speedup_batch: 4}",
            ": gate.speedup_batch: 4 is not timed; bench.batch has 1, 8",
        ),
        (
            HEAD + ENGINE + "tokens: {source: t.npz}\ngate: {class_accuracy_drop: 1%}",
            ": gate.class_accuracy_drop: only measured where tokens.source is 'digits'",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        recipe.load(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, not a file"):
        recipe.load(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"not UTF-8 text \(.* at byte 0\)"):
        recipe.load(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_bytes(b"a: \x01")
    with pytest.raises(InputError, match=r":1:4: not valid YAML: the character .* is not allowed"):
        recipe.load(tmp_path / "r.yaml")

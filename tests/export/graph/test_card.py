"""The model card of an engine folder says what the engine is, how to draw, what was measured and how to verify it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click import Context

from compress.cli import main
from export.graph.card import CARD, card
from export.runtime.engine import Engine
from export.runtime.manifest import Manifest

MEASURED = {
    "fidelity": {
        "nll_drift": 0.0036,
        "nll_drift_ci95": [0.0011, 0.0061],
        "kl": 0.016,
        "kl_ci95": [0.01, 0.02],
        "agreement": 0.896,
        "agreement_ci95": [0.88, 0.91],
    },
    "speed": [
        {
            "batch": 1,
            "runtime": "onnxruntime-cpu",
            "median_ms": 31.04,
            "ci95": [30.0, 32.5],
            "speedup_vs_reference": 3.61,
            "speedup_vs_reference_ci95": [2.91, 4.0],
        }
    ],
}


@pytest.fixture
def manifest(exported, tmp_path: Path) -> Manifest:
    """That of an engine folder, `tmp_path`."""
    exported("rotary").save(tmp_path)
    return Manifest.load(tmp_path)


def test_an_engine_folder_has_a_card_and_the_runtime_opens_it(manifest: Manifest, tmp_path: Path) -> None:
    text = (tmp_path / CARD).read_text()
    assert text == card(manifest), "of the manifest alone"
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "image-token-engine"
    assert "# tiny" in text
    assert "| Tokens of a picture | 16, of 17 |" in text
    assert "Nothing: exporting measures nothing." in text
    assert "| decode | decode.onnx |" in text
    assert manifest.key in text
    Engine.load(tmp_path, threads=1)
    (tmp_path / CARD).unlink()
    Engine.load(tmp_path, threads=1)


def test_what_a_run_measured_is_on_the_card(manifest: Manifest) -> None:
    text = card(replace(manifest, measured=MEASURED, licence="Apache-2.0"))
    assert "| NLL drift on held-out pictures | 0.36 % | 0.11 % to 0.61 % |" in text
    assert "| KL from the reference, nats per token | 0.016 | 0.01 to 0.02 |" in text
    assert "| likeliest token is the reference's | 89.6 % | 88 % to 91 % |" in text
    assert "| ms for 1 at once (onnxruntime-cpu) | 31.04 | 30 to 32.5 |" in text
    assert "| speedup over the reference's export, 1 at once | 3.61 | 2.91 to 4 |" in text
    assert "license: apache-2.0" in text
    assert "Nothing: exporting" not in text


def test_names_cannot_break_the_card(manifest: Manifest) -> None:
    names = tuple(f"a|b <i>{number}" for number in range(10))
    text = card(replace(manifest, name="x\n# y", shape=replace(manifest.shape, class_names=names)))
    assert "# x \\# y" in text
    assert "10 (a\\|b \\<i\\>0, " in text


@pytest.mark.parametrize("kind", ["rotary", "text", "masked without classes"])
def test_every_command_on_the_card_is_one_that_the_command_line_takes(kind: str, exported) -> None:
    lines = card(exported(kind).manifest).splitlines()
    commands = [part for line in lines if line.startswith("compress ") for part in line.split(" && ")]
    assert commands
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        made = main.get_command(Context(main), verb)
        assert made is not None, command
        made.make_context(verb, arguments)

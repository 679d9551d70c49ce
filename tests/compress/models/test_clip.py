"""Features of texts against transformers' own CLIP encoder, from Python and by the command `models features`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_amused import WORDS, diffusers, write_pipeline

from compress.core.settings import InputError
from compress.models import clip
from export.runtime.engine import run_once


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """The folder of a small pipeline."""
    folder = tmp_path_factory.mktemp("amused") / "tiny"
    write_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def original(pipeline):
    """The original pipeline on the same folder."""
    return diffusers.AmusedPipeline.from_pretrained(pipeline, local_files_only=True)


def test_features_of_a_text_are_those_that_the_original_pipeline_reads(pipeline, original):
    texts = ["a cat", "", "a text that is far longer than the encoder takes"]
    found = clip.features(pipeline, texts)
    ids = original.tokenizer(texts, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt")
    with torch.no_grad():
        wanted = original.text_encoder(ids.input_ids, output_hidden_states=True)
    assert found.shape == (3, WORDS + 1, 16)
    np.testing.assert_allclose(found[:, :-1], wanted.hidden_states[-2], atol=1e-6)
    np.testing.assert_allclose(found[:, -1, :12], wanted.text_embeds, atol=1e-6)
    assert not found[:, -1, 12:].any()


@pytest.mark.slow
def test_the_text_encoder_is_a_graph_too(pipeline, tmp_path, invoke):
    texts = ["a cat", "", "a text that is far longer than the encoder takes"]
    result = invoke(
        "models", "features", pipeline, *texts, "-o", tmp_path / "made.npy", "--onnx", tmp_path / "clip.onnx"
    )
    assert result.exit_code == 0, result.output
    found = np.load(tmp_path / "made.npy")
    np.testing.assert_array_equal(found, clip.features(pipeline, texts))
    made = run_once(tmp_path / "clip.onnx", "features", {"ids": clip.tokens(pipeline, texts)})
    np.testing.assert_allclose(made, found, atol=1e-4)


def test_texts_without_a_file_for_their_features_are_refused(pipeline, refused):
    assert refused("models", "features", pipeline, "a cat") == (
        'give texts and -o FILE.npy, or --onnx FILE, or both; for example  "a cat" -o features.npy'
    )


def test_a_file_that_cannot_be_written_is_named(pipeline, tmp_path):
    with pytest.raises(InputError) as caught:
        clip.write(np.zeros((1, 2, 3), dtype=np.float32), tmp_path / "nowhere" / "made.npy")
    assert str(caught.value) == f"{tmp_path / 'nowhere' / 'made.npy'}: cannot be written (No such file or directory)"


def test_a_folder_without_an_encoder_or_tokenizer_is_refused(tmp_path):
    for part, read in (
        ("text_encoder", lambda: clip.load(tmp_path)),
        ("tokenizer", lambda: clip.tokens(tmp_path, [""])),
    ):
        with pytest.raises(InputError) as caught:
            read()
        kind = "encoder" if part == "text_encoder" else "tokenizer"
        assert str(caught.value).startswith(f"{tmp_path / part}: holds no CLIP {kind} that transformers can read (")


def test_without_transformers_a_person_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError) as caught:
        clip.load(tmp_path)
    assert str(caught.value) == (
        "the features of texts need the transformers library; pip install 'transformers>=5.24', or give "
        "features that were computed elsewhere"
    )

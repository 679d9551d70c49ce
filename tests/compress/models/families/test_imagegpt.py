"""ImageGPT against transformers: the same logits in one pass and step by step, from what `save_pretrained` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.models import families
from compress.models.families import Source
from compress.models.image_model import ImageModel

transformers = pytest.importorskip("transformers", reason="transformers is not installed; pip install -e '.[dev]'")
CLUSTERS = np.random.default_rng(0).uniform(-1, 1, (32, 3))


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """A random model of 6x6 tokens, its biases and norms moved away from their starting values."""
    config = transformers.ImageGPTConfig(vocab_size=33, n_positions=36, n_embd=48, n_layer=3, n_head=4)
    torch.manual_seed(0)
    model = transformers.ImageGPTForCausalImageModeling(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def folder(theirs: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `save_pretrained` writes of it, and its processor's clusters."""
    path = tmp_path_factory.mktemp("imagegpt")
    theirs.save_pretrained(path)  # type: ignore[operator]
    (path / "preprocessor_config.json").write_text(json.dumps({"clusters": CLUSTERS.tolist()}))
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> ImageModel:
    """The same folder, read here."""
    return families.load(Source(str(folder)), "imagegpt")


def pictures() -> torch.Tensor:
    """Inputs (3, 36): the start token, then all tokens but the last."""
    tokens = np.random.default_rng(1).integers(0, 32, (3, 35))
    return torch.from_numpy(np.concatenate([np.full((3, 1), 32), tokens], axis=1))


def test_logits_of_one_pass_are_theirs(theirs: torch.nn.Module, ours: ImageModel) -> None:
    with torch.no_grad():
        wanted = theirs(pictures()).logits.numpy()
    assert np.abs(wanted).max() > 1, "the comparison means something"
    np.testing.assert_allclose(ours.score(pictures().numpy()), wanted, atol=1e-4)


def test_logits_step_by_step_are_theirs_through_their_cache(theirs: torch.nn.Module, ours: ImageModel) -> None:
    past, rows = None, []
    with torch.no_grad():
        for position in range(36):
            out = theirs(pictures()[:, position : position + 1], past_key_values=past, use_cache=True)
            past = out.past_key_values
            rows.append(out.logits.numpy())
    np.testing.assert_allclose(ours.score_stepwise(pictures().numpy()), np.concatenate(rows, axis=1), atol=1e-4)


def test_pictures_have_the_colours_of_the_clusters(ours: ImageModel) -> None:
    images = ours.decode_images(np.arange(36)[None] % 32)
    wanted = np.rint(CLUSTERS * 127.5 + 127.5)[np.arange(36) % 32].reshape(6, 6, 3)
    assert np.array_equal(images[0], wanted)


def test_what_the_published_models_do_not_do_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"scale_attn_weights: False is not supported; the published models have True"):
        families.load(Source(str(folder), config={"scale_attn_weights": False}), "imagegpt")
    with pytest.raises(InputError, match=r"activation_function: 'relu' is not one of quick_gelu"):
        families.load(Source(str(folder), config={"activation_function": "relu"}), "imagegpt")


def test_clusters_of_another_count_are_refused(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "clusters.npy", CLUSTERS[:5])
    with pytest.raises(InputError, match=r"clusters are \(5, 3\); the model has \(32, 3\)"):
        families.load(Source(str(folder), tokenizer=str(tmp_path / "clusters.npy")), "imagegpt")

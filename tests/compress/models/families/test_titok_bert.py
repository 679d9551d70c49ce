"""TiTok's ImageBert against transformers' BertModel, and its drawing against the published loop, written anew."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.core.settings import InputError
from compress.models import families
from compress.models.image_model import ImageModel
from compress.verifying.golden import exported, stand_in
from export.runtime.engine import Engine
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler

transformers = pytest.importorskip("transformers", reason="BertModel is in transformers, which is not installed")

CODES, CLASSES, LENGTH = 24, 5, 12
GENERATOR = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_steps": 8,
    "randomize_temperature": 9.5,
    "guidance_scale": 4.5,
    "guidance_decay": "linear",
}


class ImageBert(nn.Module):
    """The published module: a BERT over the class and the tokens, and a head that the class has no logits of."""

    def __init__(self, width: int = 32, layers: int = 3, heads: int = 4, ffn: int = 48, **sizes: int) -> None:
        super().__init__()
        codes, classes, length = sizes.get("codes", CODES), sizes.get("classes", CLASSES), sizes.get("length", LENGTH)
        config = transformers.BertConfig(
            vocab_size=codes + classes + 2,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=ffn,
            hidden_act="gelu",
            max_position_embeddings=length + 1,
            layer_norm_eps=1e-12,
            pad_token_id=None,
        )
        self.model = transformers.BertModel(config, add_pooling_layer=False)
        self.model.lm_head = nn.Linear(width, codes)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) of tokens (B, T) and classes (B,)."""
        ids = torch.cat([labels[:, None] + CODES + 1, tokens], dim=1)
        return self.model.lm_head(self.model(input_ids=ids)[0][:, 1:])


@pytest.fixture(scope="module")
def original() -> ImageBert:
    module, generator = ImageBert(), torch.Generator().manual_seed(4)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = float("LayerNorm.weight" in name) + (0.1 if parameter.dim() < 2 else 0.3) * noise
    return module.eval()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory) -> Path:
    """The generator in the published layout."""
    room = tmp_path_factory.mktemp("generator")
    save_file({name: tensor.contiguous() for name, tensor in original.state_dict().items()}, room / "model.safetensors")
    (room / "config.json").write_text(json.dumps({"model": {"generator": GENERATOR}}))
    return room


@pytest.fixture(scope="module")
def model(folder) -> ImageModel:
    return families.load(families.Source(str(folder)), "r.yaml: model", stand_in)


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory) -> Engine:
    return exported(model, tmp_path_factory.mktemp("engine"))


def test_logits_are_the_originals_in_torch_and_in_an_engine(original, model, engine):
    generator = np.random.default_rng(1)
    tokens, labels = generator.integers(0, CODES + 1, (4, LENGTH)), np.array([0, 4, CLASSES, 2])
    with torch.no_grad():
        wanted = original(torch.from_numpy(tokens), torch.from_numpy(labels)).numpy()
    inputs = np.concatenate([labels[:, None] + CODES + 1, tokens], axis=1)
    assert wanted.std() > 0.3
    for score in (model.score, model.score_stepwise, engine.score, engine.score_stepwise):
        np.testing.assert_allclose(score(inputs), wanted, atol=1e-4)


def published_loop(original, label: int, temperature: float, noise) -> np.ndarray:
    """One picture's tokens (T,): noise on logits that falls with the steps, and an arccos schedule of masks."""
    steps, tokens = GENERATOR["num_steps"], torch.full((1, LENGTH), CODES)
    for step in range(steps):
        done = (step + 1) / steps
        falling, scale = temperature * (1 - done), GENERATOR["guidance_scale"] * step / steps
        with torch.no_grad():
            given, null = (original(tokens, torch.tensor([each]))[0].double().numpy() for each in (label, CLASSES))
        logits = given + scale * (given - null)
        disturbed = logits + falling * noise.gumbel(step, logits.shape)[0] if falling else logits
        chosen, known = disturbed.argmax(axis=-1), tokens[0].numpy() != CODES
        drawn = np.where(known, tokens[0].numpy(), chosen)
        if step + 1 < steps:
            sure = np.where(
                known, np.inf, logits[np.arange(LENGTH), chosen] + falling * noise.gumbel(step, (LENGTH,), "place")[0]
            )
            hidden = max(1, min(int((~known).sum()) - 1, math.floor(LENGTH * math.acos(done) / (math.pi / 2))))
            drawn[np.argsort(sure)[:hidden]] = CODES
        tokens = torch.from_numpy(drawn)[None]
    return tokens[0].numpy()


@pytest.mark.parametrize("temperature", [9.5, 0.5])
def test_pictures_are_drawn_as_published_from_the_same_noise(original, model, engine, temperature):
    wanted = published_loop(original, 3, temperature, Noise(11, 1))
    sampler = model.sampler.changed(choice_temperature=temperature)
    for drawer in (model, engine):
        np.testing.assert_array_equal(drawer.draw_tokens(np.array([3]), 11, sampler)[0], wanted)


def test_the_sampler_is_what_the_checkpoint_states(model):
    assert model.sampler == Sampler(
        cfg_scale=5.5,
        guidance="ramp",
        guidance_power=3.0,
        steps=8,
        schedule="arccos",
        reveal="logit",
        choice_temperature=9.5,
    )
    np.testing.assert_allclose([model.sampler.scale_at(step, 8) for step in (0, 4, 7)], [1, 3.25, 4.9375])


def test_a_guidance_that_is_not_known_is_refused(folder):
    config = {"guidance_decay": "quadratic"}
    with pytest.raises(InputError) as caught:
        families.load(families.Source(str(folder), config=config), "r.yaml: model", stand_in)
    assert str(caught.value) == (
        f"{folder}: config: guidance_decay 'quadratic' with softmax_temperature_annealing False: known are linear, "
        "constant and power-cosine, without"
    )


def test_every_name_and_shape_of_the_published_size_is_accounted_for(tmp_path):
    """TiTok-L-32: 24 layers of width 768 with 16 heads."""
    from compress.models.checkpoints.checkpoint import Planned

    with torch.device("meta"):
        whole = ImageBert(768, 24, 16, 3072, codes=4096, classes=1000, length=32)
    state = whole.state_dict()

    transformer = families.plan(Planned(tmp_path, (), {}, dict(state)), "titok-bert")
    config = transformer.config
    assert (config.vocabulary, config.classes, config.grid, config.head_width) == (4096, 1000, (1, 32), 48)
    types = 2 * 768  # of which one is added to the positions
    assert (
        sum(each.numel() for each in transformer.parameters()) == sum(each.numel() for each in state.values()) - types
    )

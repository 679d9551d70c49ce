"""aMUSEd against diffusers: logits, the scheduler's steps, a whole pipeline's folder, and the published names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_amused import CODES, MASK, WORDS, diffusers, write_pipeline

from calibration.tokens import TokenSet
from compress.core.settings import InputError
from compress.models import clip, families
from compress.models.checkpoints.checkpoint import Checkpoint, Planned
from compress.models.families import amused
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import quantizations
from compress.passes.distill import Distill
from compress.passes.export import Export
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_heads import PruneHeads
from compress.passes.quantize import Quantize
from compress.verifying.golden import exported, stand_in
from export.runtime.drawing import LogitsDrawer, draw
from export.runtime.engine import Engine
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape


@pytest.fixture(scope="module", params=[False, True], ids=["256", "512"])
def pipeline(request, tmp_path_factory) -> Path:
    """The folder of a small pipeline."""
    folder = tmp_path_factory.mktemp("amused") / "tiny"
    write_pipeline(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def model(pipeline) -> ImageModel:
    return families.load(families.Source(str(pipeline)), "r.yaml: model")


@pytest.fixture(scope="module")
def original(pipeline):
    """The original pipeline on the same folder."""
    made = diffusers.AmusedPipeline.from_pretrained(pipeline, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory) -> Engine:
    return exported(model, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def pictures() -> TokenSet:
    """Random pictures of random texts."""
    generator = np.random.default_rng(5)
    tokens, parts = generator.integers(0, CODES, (48, 16)), np.repeat([0, 1, 2], 16)
    features = generator.standard_normal((48, WORDS + 1, 16)).astype(np.float32)
    return TokenSet(tokens, np.zeros(48, dtype=np.int64), parts, features)


def originals_logits(original, inputs, features):
    """Logits (N, T, V) of the original; the mask token is another number there."""
    tokens = np.where(inputs[:, 1:] == CODES, MASK, inputs[:, 1:]).reshape(-1, 4, 4)
    text = torch.from_numpy(features)
    size = torch.tensor([[16.0, 16.0, 0.0, 0.0, 6.0]]).expand(len(tokens), -1)
    with torch.no_grad():
        logits = original.transformer(torch.from_numpy(tokens), text[:, :-1], text[:, -1, :12], size)
    return logits.flatten(2).transpose(1, 2).numpy()


@pytest.mark.slow
def test_logits_are_the_originals_in_torch_and_in_an_engine(model, original, engine, pictures):
    batch = examples(model.shape, pictures.take(slice(0, 3)))
    wanted = originals_logits(original, batch.inputs, batch.features)
    assert wanted.std() > 0.3
    for score in (model.score, model.score_stepwise, engine.score, engine.score_stepwise):
        np.testing.assert_allclose(score(batch.inputs, batch.features), wanted, atol=1e-4)


def test_a_dropped_text_is_the_empty_one(pipeline, model, engine, pictures):
    empty = np.repeat(clip.features(pipeline, [""]), 2, axis=0)
    batch = examples(model.shape, pictures.take(slice(0, 2)))
    dropped = batch.inputs.copy()
    dropped[:, 0] += 1
    wanted = model.score(batch.inputs, empty)
    np.testing.assert_allclose(model.score(dropped, batch.features), wanted, atol=1e-6)
    np.testing.assert_allclose(engine.score(dropped, batch.features), wanted, atol=1e-4)


@pytest.fixture
def greedy(monkeypatch):
    """Make the scheduler take the likeliest token."""
    likeliest = lambda probabilities, count, generator=None: probabilities.argmax(dim=-1, keepdim=True)  # noqa: E731
    monkeypatch.setattr(torch, "multinomial", likeliest)


@pytest.mark.slow
def test_a_pipeline_without_chance_draws_the_same_tokens_and_pictures(pipeline, model, original, engine, greedy):
    texts = ["a cat", "dog"]
    # A guidance of 10 makes probabilities of exactly 1 here, whose order float32 leaves to chance.
    settings = {"temperature": (0, 0), "num_inference_steps": 5, "guidance_scale": 2.0}
    tokens = original(texts, output_type="latent", **settings)[0].flatten(1).numpy()
    pixels = original(texts, output_type="np", **settings)[0]
    sampler = model.sampler.changed(temperature=0.0, choice_temperature=0.0, steps=5, cfg_scale=2.0)
    features, labels = clip.features(pipeline, texts), np.zeros(2, dtype=np.int64)
    for drawer in (model, engine):
        drawn = drawer.draw_tokens(labels, 0, sampler, features)
        np.testing.assert_array_equal(drawn, tokens)
        assert np.abs(drawer.decode_images(drawn) - pixels * 255).max() < 1.01


class Fixed:
    """A runner that always says the same."""

    def __init__(self, logits) -> None:
        self.logits, self.seen = logits, []

    def begin(self, labels, features=None, prompt=None):
        return None

    def step(self, tokens, positions):
        self.seen.append(tokens.copy())
        return self.logits[:, positions]


def test_positions_are_masked_as_the_original_scheduler_does_with_the_same_noise(monkeypatch):
    """One picture, fixed logits, and the noise of one stream for both."""
    from diffusers.schedulers import scheduling_amused

    logits = np.random.default_rng(3).standard_normal((1, 63, CODES)).astype(np.float32)
    sampler, steps = amused.Amused().sampler(None).changed(cfg_scale=1.0), amused.STEPS
    noise = Noise(9, 1)
    step = iter(np.repeat(np.arange(steps), 2))  # tokens and places of each

    def drawn(probabilities, count, generator=None):
        scores = probabilities.double().log().numpy() + noise.gumbel(next(step), tuple(probabilities.shape))[0]
        return torch.from_numpy(scores.argmax(axis=-1, keepdims=True))

    monkeypatch.setattr(torch, "multinomial", drawn)

    def disturbance(t, generator=None):
        return torch.from_numpy(noise.gumbel(next(step), (t.shape[1],), "place"))

    monkeypatch.setattr(scheduling_amused, "gumbel_noise", disturbance)
    scheduler = diffusers.AmusedScheduler(mask_token_id=CODES)
    scheduler.set_timesteps(steps)
    sample, states = torch.full((1, 63), CODES), []
    for timestep in scheduler.timesteps:
        states.append(sample.numpy().copy())
        given = torch.from_numpy(logits).transpose(1, 2).unflatten(2, (7, 9))
        sample = scheduler.step(given, timestep, sample.view(1, 7, 9)).prev_sample.flatten(1)
    runner = Fixed(logits)
    shape = Shape("masked", CODES, 1, (7, 9))
    found = draw(LogitsDrawer(runner, shape), np.zeros(1, dtype=np.int64), shape, sampler, 9)
    assert len(runner.seen) == steps
    np.testing.assert_array_equal(np.concatenate(runner.seen), np.concatenate(states))
    np.testing.assert_array_equal(found, sample.numpy())


def test_the_choice_cools_as_the_original_does():
    scheduler = diffusers.AmusedScheduler(mask_token_id=MASK)
    scheduler.set_timesteps(12)
    sampler = amused.Amused().sampler(None)
    np.testing.assert_allclose([sampler.choice_at(step, 12) for step in range(12)], scheduler.temperatures, atol=1e-6)
    assert sampler == Sampler(cfg_scale=10.0, steps=12, choice_temperature=2.0, choice_fall="before")


@pytest.mark.parametrize(("halved", "total"), [(False, 603.5), (True, 608.3)], ids=["256", "512"])
def test_every_name_and_shape_of_the_published_size_is_accounted_for(halved, total, tmp_path):
    with torch.device("meta"):
        whole = diffusers.UVit2DModel(downsample=halved, upsample=halved, sample_size=32 if halved else 16)
    assert sum(tensor.numel() for tensor in whole.parameters()) / 1e6 == pytest.approx(total, abs=0.1)
    state = whole.state_dict()
    read: set[str] = set()

    class Seen(Planned):
        """A checkpoint that notes what is read of it."""

        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

        def planned(self):
            return self

    transformer = families.plan(Seen(tmp_path, (), dict(whole.config), dict(state)), "amused")
    config = transformer.config
    assert read == set(state)
    assert (config.vocabulary, config.grid, len(config.layers)) == (8192, (32, 32) if halved else (16, 16), 22)
    assert (config.text.length, config.text.width) == (78, 768)
    assert config.uvit.size == ((512.0, 512.0) if halved else (256.0, 256.0)) + (0.0, 0.0, 6.0)
    unused = (8256 - 8193) * 768  # rows of the embedding that stand for nothing
    assert (
        sum(each.numel() for each in transformer.parameters()) == sum(each.numel() for each in state.values()) - unused
    )


def test_without_a_text_encoder_the_features_of_no_text_are_given_or_asked_for(pipeline, model, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (pipeline / "transformer").iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError) as caught:
        families.load(families.Source(str(alone)), "r.yaml: model", stand_in)
    assert str(caught.value) == (
        f"{alone}: no text_encoder beside it, so the features of no text are not known; give the pipeline's folder, or "
        "state config.null_features, a .npy file (texts' tokens + 1, width)"
    )
    np.save(tmp_path / "null.npy", model.transformer.text.null.numpy())
    config = {"null_features": str(tmp_path / "null.npy"), "micro_conds": [16, 16, 0, 0, 6]}
    loaded = families.load(families.Source(str(alone), config=config), "r.yaml: model", stand_in)
    assert loaded.transformer.config == model.transformer.config
    for name, tensor in model.transformer.state_dict().items():
        torch.testing.assert_close(loaded.transformer.state_dict()[name], tensor, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"micro_conds": [1, 2]}, "config.micro_conds: [1, 2] are not five numbers: width, height, crop from the left"),
        ({"use_bias": True}, "config: biases, and norms without weights, are not supported"),
        ({"null_features": "nowhere.npy"}, "config.null_features: nowhere.npy: there is no such file"),
    ],
)
def test_what_is_stated_wrongly_is_refused(pipeline, config, message):
    with pytest.raises(InputError) as caught:
        amused.Amused().architecture(Checkpoint.open(pipeline, config))
    assert str(caught.value).startswith(f"{pipeline}: {message}")


def test_the_tokenizer_is_the_pipelines_own(pipeline, model):
    assert (model.tokenizer.vocabulary, model.tokenizer.length, model.tokenizer.picture) == (CODES, 16, (16, 16, 3))
    assert model.name == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [True], ids=["512"], indirect=True)
def test_every_kind_of_pass_works_on_it(model, pictures, tmp_path):
    from compress.passes import Context

    context = Context(model, pictures, 8, 0, tmp_path)
    pruned = PruneHeads(ratio=0.5).run(model, context).model
    pruned = PruneFfn(ratio=0.5, multiple=4).run(pruned, context).model
    assert [(layer.heads, layer.ffn) for layer in pruned.transformer.config.layers] == [(2, 20)] * 2
    taught = Distill(steps=2, batch=4, validate_every=1).run(pruned, context).model
    quantized = Quantize(weights="int8", activations="int8", dynamic=True).run(taught, context).model
    assert len(quantizations(quantized.transformer)) == 2 * 14 + 1  # and the head
    folder = tmp_path / "engine"
    folder.mkdir()
    Export(target="onnxruntime").run(quantized, context).model.save(folder)
    engine = Engine.load(folder)
    batch = examples(model.shape, pictures.part("held_out"))
    wanted = quantized.score(batch.inputs, batch.features)
    # Sums in another order round a few activations to the next code.
    assert np.abs(engine.score(batch.inputs, batch.features) - wanted).mean() < 0.05 * wanted.std()
    images = engine.generate([0, 0], seed=1, features=batch.features[:2])
    assert images.shape == (2, 16, 16, 3)


def test_an_engine_draws_what_is_written(pipeline, engine, tmp_path, invoke):
    clip.write(clip.features(pipeline, ["a cat", "dog"]), tmp_path / "made.npy")
    result = invoke("generate", engine.folder, "--features", tmp_path / "made.npy", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.png").is_file()

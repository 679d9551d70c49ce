"""`distill-decoder`: a smaller decoder near the reference's, for every convolutional family, resumable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.measure.pictures.decoding import psnr
from compress.models.artifact import Form
from compress.models.candidate import pixels_of
from compress.models.families import reference as own_format
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.tokenizer.titok import TitokAutoencoder
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.passes import PassError, distill_decoder, find
from compress.passes.decoder import Decoder
from compress.passes.distill_decoder import CHECKPOINT, DistillDecoder
from compress.passes.export import Export
from export.runtime.engine import Engine

QUICK = {"steps": 40, "batch": 4, "learning_rate": 5e-3, "warmup": 5, "validate_every": 20, "levels": 2}
SCALES = (1, 2, 4)


def config(**changes) -> VqConfig:
    """A small decoder of three resolutions."""
    fields = {"norm_groups": 4, "decoder_blocks": 1, "middle_attention": False, **changes}
    return VqConfig(17, 4, 8, fields.pop("encoder_channels", ()), (8, 8, 16), **fields)


def with_decoder(model: ImageModel, vq: VqConfig) -> ImageModel:
    """The model with a VQ tokenizer of this config."""
    torch.manual_seed(0)
    autoencoder = VqAutoencoder(vq).eval().requires_grad_(False)
    return replace(model, tokenizer=VqTokenizer(autoencoder, model.shape.grid))


@pytest.fixture
def model(tiny_model) -> ImageModel:
    """A model with a VQ decoder and encoder."""
    return with_decoder(tiny_model(layers=1), config(encoder_channels=(4, 4, 8), encoder_blocks=1))


def nearness(model: ImageModel, other: ImageModel, tokens: np.ndarray) -> float:
    """Mean PSNR of two models' pictures, dB."""
    own, wanted = (pixels_of(each)(tokens).clip(0, 1).astype(np.float64) for each in (model, other))
    return float(np.mean([psnr(first, second) for first, second in zip(own, wanted, strict=True)]))


def test_it_takes_and_gives_torch_and_is_lossy() -> None:
    assert find("distill-decoder", "recipe") is DistillDecoder
    assert (DistillDecoder.accepts, DistillDecoder.returns, DistillDecoder.exact) == (Form.TORCH, Form.TORCH, False)


def test_teaching_brings_the_smaller_decoder_nearer_on_held_out_tokens(model, context, tiny_tokens) -> None:
    begun = DistillDecoder(**{**QUICK, "steps": 1, "learning_rate": 0.0}).run(model, context(model)).model
    outcome = DistillDecoder(**QUICK).run(model, context(model))
    tokens = tiny_tokens.part("held_out").tokens
    assert nearness(outcome.model, model, tokens) > nearness(begun, model, tokens) + 2
    notes = outcome.notes
    assert notes.steps == 40
    assert notes.channels == (16, 8)
    assert notes.validation_psnr == pytest.approx(
        nearness(outcome.model, model, tiny_tokens.part("validation").tokens), abs=0.1
    )
    assert notes.weights == sum(each.numel() for each in outcome.model.tokenizer.autoencoder.decoder.parameters())
    assert notes.products < notes.products_before


def test_encoder_and_codes_stay_those_of_the_reference(model, context) -> None:
    made = DistillDecoder(**{**QUICK, "steps": 2}).run(model, context(model)).model
    before, after = model.tokenizer.state(), made.tokenizer.state()
    kept = [name for name in before if not name.startswith("decoder.")]
    assert any(name.startswith("encoder.") for name in kept)
    assert kept == [name for name in after if not name.startswith("decoder.")]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert made.transformer is model.transformer


def test_it_begins_as_the_blocks_of_the_reference(model, context) -> None:
    made = DistillDecoder(**{**QUICK, "steps": 1, "learning_rate": 0.0}).run(model, context(model)).model
    before, after = model.tokenizer.state(), made.tokenizer.state()
    pairs = {"stem": "stem", "middle.blocks.0": "first.0", "middle.blocks.1": "first.1", "levels.0.blocks.0": "first.2"}
    for theirs, own in pairs.items():
        for name in (name for name in before if name.startswith(f"decoder.{theirs}.")):
            assert torch.equal(before[name], after[name.replace(f"decoder.{theirs}.", f"decoder.{own}.")])


@pytest.mark.parametrize(
    "changes",
    [
        {"middle_attention": True, "attention_levels": (2,), "normalised_codes": True},  # LlamaGen's VQ-16, taming
        {"bias": False, "shortcut": "output", "pixel_range": "unit"},  # MaskGIT's
    ],
    ids=["llamagen", "maskgit"],
)
def test_every_convolutional_family_is_exported_quantized_and_kept(changes, tiny_model, context, tmp_path) -> None:
    model = with_decoder(tiny_model(layers=1), config(**changes))
    made = DistillDecoder(**{**QUICK, "steps": 2}).run(model, context(model)).model
    own_format.save(made, tmp_path)
    again = own_format.load(tmp_path)
    tokens = context(model).tokens.tokens[:3]
    np.testing.assert_array_equal(pixels_of(again)(tokens), pixels_of(made)(tokens))
    exported = Export("onnxruntime").run(made, context(model)).model
    outcome = Decoder(pictures=4).run(exported, context(model))
    assert outcome.notes.convolutions > outcome.notes.left_in_float > 0
    for name, engine in (("float", exported), ("int8", outcome.model)):
        folder = tmp_path / name
        folder.mkdir()
        engine.save(folder)
        pixels = pixels_of(Engine.load(folder, threads=1))(tokens)
        np.testing.assert_allclose(pixels, pixels_of(made)(tokens), atol=2e-5 if name == "float" else 0.2)


def test_in_half_precision_it_shows_the_same_pictures(model, context, tmp_path) -> None:
    made = DistillDecoder(**{**QUICK, "steps": 2}).run(model, context(model)).model
    exported = Export("onnxruntime", floats="float16").run(made, context(model)).model
    exported.save(tmp_path)
    tokens = context(model).tokens.tokens[:3]
    np.testing.assert_allclose(pixels_of(Engine.load(tmp_path, threads=1))(tokens), pixels_of(made)(tokens), atol=0.01)
    outcome = Decoder(pictures=4).run(exported, context(model))
    assert outcome.model.manifest.floats == "float16"
    assert outcome.notes.convolutions > 0


def test_a_decoder_of_several_scales_is_taught_too(tiny_model, context) -> None:
    torch.manual_seed(0)
    reference = VqAutoencoder(config(scales=ScalesConfig(SCALES), quant_kernel=3, middle_attention=True)).eval()
    model = replace(tiny_model(layers=1), tokenizer=VqTokenizer(reference.requires_grad_(False), (4, 4)))
    given = context(model)
    tokens = replace(given.tokens, tokens=given.tokens.tokens[:, : model.tokenizer.length])
    outcome = DistillDecoder(**{**QUICK, "steps": 2}).run(model, replace(given, tokens=tokens))
    assert outcome.notes.products < outcome.notes.products_before
    assert outcome.model.tokenizer.decode(tokens.tokens[:3]).shape == (3, 16, 16, 3)


def test_a_run_that_was_stopped_ends_with_the_same_weights(model, context, tmp_path) -> None:
    whole = DistillDecoder(**QUICK).run(model, context(model)).model
    given = replace(context(model), workspace=tmp_path)

    def stop(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DistillDecoder(**QUICK).run(model, replace(given, report=stop))
    assert (tmp_path / CHECKPOINT).exists()
    seen: list[int] = []
    resumed = DistillDecoder(**QUICK).run(model, replace(given, report=lambda step, *_: seen.append(step))).model
    assert seen[0] == 26
    before, after = whole.tokenizer.state(), resumed.tokenizer.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_stops_when_nothing_gets_better(model, context) -> None:
    settings = {**QUICK, "learning_rate": 0.0, "validate_every": 5, "patience": 2}
    assert DistillDecoder(**settings).run(model, context(model)).notes.steps == 15


def test_a_rehearsal_takes_two_steps_and_the_rest_is_said_to_be_kept(model, tiny_tokens) -> None:
    lighter, ratio = DistillDecoder(**QUICK).rehearsal()
    # 3 for each of 40 steps of 4; 32 references of 3, and 3 validations of 32; of the rehearsal 2 steps, 2 validations
    assert (lighter.steps, ratio) == (2, (3 * 160 + 96 + 96) / (3 * 8 + 96 + 64))
    height, width, colours = model.picture
    assert DistillDecoder(steps=2, batch=3).keeps(model, tiny_tokens, 8) == 6 * 2 * height * width * colours


def test_palettes_transformers_and_what_was_taught_are_refused(model, tiny_model, context) -> None:
    def refusal(given: ImageModel, **settings) -> str:
        with pytest.raises(PassError) as error:
            DistillDecoder(**{**QUICK, "steps": 1, **settings}).run(given, context(model))
        return str(error.value)

    assert refusal(tiny_model()) == (
        "distill-decoder: the image decoder is a palette without convolutions; leave the step out"
    )
    titok = object.__new__(VqTokenizer)
    object.__setattr__(titok, "autoencoder", object.__new__(TitokAutoencoder))
    assert refusal(replace(model, tokenizer=titok)) == (
        "distill-decoder: the image decoder is a transformer; only a convolutional one can be made smaller"
    )
    made = DistillDecoder(**{**QUICK, "steps": 1}).run(model, context(model)).model
    assert refusal(made) == "distill-decoder: the image decoder is a smaller one already; teach it once"
    assert refusal(model, levels=4) == "distill-decoder: levels: 4; this image decoder has 3 resolutions"
    autoencoder = with_decoder(model, config()).tokenizer.autoencoder
    head = autoencoder.decoder.head
    head.weight = torch.nn.Parameter(head.weight.to(torch.int8), requires_grad=False)
    assert refusal(replace(model, tokenizer=VqTokenizer(autoencoder, model.shape.grid))) == (
        "distill-decoder: the image decoder is quantized (torch.int8); give the step one in floats"
    )


def test_tokens_without_a_part_to_stop_by_are_refused(model, context, tiny_tokens) -> None:
    given = replace(context(model), tokens=tiny_tokens.part("train"))
    with pytest.raises(PassError, match="the tokens have no validation pictures; split them"):
        DistillDecoder(**QUICK).run(model, given)


def test_a_learning_rate_that_diverges_is_named(model, context, monkeypatch) -> None:
    loss = distill_decoder.picture_loss
    monkeypatch.setattr(distill_decoder, "picture_loss", lambda *given: loss(*given) * float("nan"))
    with pytest.raises(PassError, match=r"training diverged \(PSNR nan dB\); use a learning_rate below 0.005"):
        DistillDecoder(**{**QUICK, "patience": 0}).run(model, context(model))


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"width"):
        DistillDecoder(steps=1, width=0.0)

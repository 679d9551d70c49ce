"""The pass `distill-decoder`: a smaller image decoder, taught by the reference's decoder on token grids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from calibration.tokens import TokenSet
from compress.core.settings import MOST_BATCH, MOST_LEARNING_RATE, MOST_STEPS, MOST_WEIGHT, digest, setting
from compress.models.image_model import ImageModel
from compress.models.tokenizer.light import LightConfig, LightDecoder
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import MOST_LEVELS, DecoderNetwork, Level, VqAutoencoder, VqConfig
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.training.decoder_teaching import (
    MOST_BYTES,
    DecoderTeacher,
    PictureDistance,
    PictureWeights,
    in_signed_range,
    picture_bytes,
    picture_loss,
)
from compress.training.device import computing
from compress.training.loop import Schedule, fit

REHEARSED_STEPS = 2
CHECKPOINT = "distill-decoder.pt"
VALIDATION = 32  # pictures that judge and stop, at most: a mean PSNR of so many moves by less than 0.1 dB
CHANNELS_TOGETHER = 8  # widths are multiples: what vector instructions take at once
EMA = 0.998  # of the weights that are kept: single steps scatter by decibels
AS_MANY = 3  # pictures of the smaller decoder in the time of one with gradients, or of one of the reference's
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class DecoderTaught(Notes):
    """How near the smaller decoder came, and how small it is."""

    steps: int = setting(doc="optimizer steps that were taken")
    validation_psnr: float = setting(doc="mean PSNR against the reference's decoder on validation pictures, dB")
    channels: tuple[int, ...] = setting(doc="widths of the levels, from the latents' resolution up")
    weights_before: int = setting(doc="weights of the reference's decoder")
    weights: int = setting(doc="and of the smaller one")
    products_before: int = setting(doc="multiplications of the reference's convolutions for one picture")
    products: int = setting(doc="and of the smaller one's")


@dataclass(frozen=True)
class DistillDecoder(TorchPass):
    """The reference's image decoder teaches a smaller one, which takes its place; encoder and codes stay.

    The smaller one begins as the reference's own blocks at the latents' resolution, without their attention. Above that
    it has fewer and narrower levels without normalization, and its last convolution makes several pixels at once. It
    learns the reference's pixels of the training pictures' tokens, so no pictures are needed; the weights that decode
    the validation pictures best are kept.
    """

    steps: int = setting(doc="optimizer steps at most", low=1, high=MOST_STEPS)
    width: float = setting(
        0.67, doc="channels above the latents' resolution, as a share of the reference's", low=0.01, high=1
    )
    levels: int = setting(
        3, doc="resolutions that are computed; finer pixels come of the last one's", low=1, high=MOST_LEVELS
    )
    low_blocks: int = setting(
        0, doc="residual blocks at the latents' resolution: the first ones of the reference's; 0: all", low=0, high=64
    )
    blocks: int = setting(2, doc="residual blocks of each resolution above the latents'", low=0, high=64)
    batch: int = setting(2, doc="pictures of a step", low=1, high=MOST_BATCH)
    learning_rate: float = setting(1.5e-3, doc="peak of the cosine schedule", low=0, high=MOST_LEARNING_RATE)
    warmup: int = setting(50, doc="steps of linear warm-up", low=0, high=MOST_STEPS)
    absolute: float = setting(0.1, doc="weight of the absolute error, beside the squared one", low=0, high=MOST_WEIGHT)
    coarse: float = setting(0.5, doc="weight of the squared errors of averaged pixels", low=0, high=MOST_WEIGHT)
    edges: float = setting(0.05, doc="weight of the error of differences of neighbours", low=0, high=MOST_WEIGHT)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", doc="of the student's products while it learns; bfloat16 is faster where the processor has it"
    )
    validate_every: int = setting(250, doc="steps between validations", low=1, high=MOST_STEPS)
    patience: int = setting(6, doc="validations without a better one before it stops; 0: never", low=0, high=MOST_STEPS)

    def requires(self, model: ImageModel) -> None:
        """Refuse decoders without convolutions, smaller or quantized ones, and levels that the decoder lacks."""
        tokenizer = model.tokenizer
        if not isinstance(tokenizer, VqTokenizer):
            raise PassError("the image decoder is a palette without convolutions; leave the step out")
        autoencoder = tokenizer.autoencoder
        if not isinstance(autoencoder, VqAutoencoder):
            raise PassError("the image decoder is a transformer; only a convolutional one can be made smaller")
        if autoencoder.config.light is not None:
            raise PassError("the image decoder is a smaller one already; teach it once")
        stored = {
            parameter.dtype for parameter in autoencoder.decoder.parameters() if not parameter.is_floating_point()
        }
        if stored:
            raise PassError(f"the image decoder is quantized ({stored.pop()}); give the step one in floats")
        if self.levels > autoencoder.config.levels:
            raise PassError(f"levels: {self.levels}; this image decoder has {autoencoder.config.levels} resolutions")

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with the smaller decoder.

        Raises:
            PassError: no pictures to train on or to stop by, or training diverged.
        """
        tokenizer = context.reference.tokenizer
        assert isinstance(tokenizer, VqTokenizer)
        reference = tokenizer.autoencoder
        assert isinstance(reference, VqAutoencoder)
        training, validation = context.tokens.part("train"), context.tokens.part("validation")
        for part, name in ((training, "train"), (validation, "validation")):
            if not len(part):
                raise PassError(f"the tokens have no {name} pictures; split them with a share for {name}")
        torch.manual_seed(context.seed)
        autoencoder = self.smaller(reference)
        student = autoencoder.decoder.requires_grad_(True)
        teacher = DecoderTeacher(reference, tokenizer.grid, training.tokens)
        weights = PictureWeights(self.absolute, self.coarse, self.edges)

        def loss(step: int) -> Tensor:
            generator = np.random.Generator(np.random.Philox(key=context.seed, counter=[0, 0, 0, step]))
            rows = generator.integers(len(training), size=self.batch).tolist()
            with computing(CPU, self.precision):
                made = student(teacher.features(rows))
            return picture_loss(in_signed_range(made.float(), reference), teacher(rows), weights)

        distance = PictureDistance(DecoderTeacher(reference, tokenizer.grid, validation.tokens[:VALIDATION]))
        log = fit(
            student,
            loss,
            Schedule(
                steps=self.steps,
                learning_rate=self.learning_rate,
                warmup=min(self.warmup, self.steps),
                ema=EMA,
                validate_every=self.validate_every,
                patience=self.patience,
            ),
            seed=context.seed,
            validate=distance,
            task=digest(self.task(training)),
            checkpoint=context.workspace / CHECKPOINT,
            report=context.report,
        )
        reached = -distance(student)
        if not reached > 0:
            raise PassError(f"training diverged (PSNR {reached} dB); use a learning_rate below {self.learning_rate:g}")
        student.requires_grad_(False)
        made = replace(model, tokenizer=VqTokenizer(autoencoder.eval(), tokenizer.grid))
        assert autoencoder.config.light is not None
        notes = DecoderTaught(
            steps=int(log[-1]["step"]),
            validation_psnr=round(reached, 2),
            channels=autoencoder.config.light.channels,
            weights_before=weight_count(reference.decoder),
            weights=weight_count(student),
            products_before=products(reference.decoder, teacher.features([0])),
            products=products(student, teacher.features([0])),
        )
        return Outcome(made, notes)

    def smaller(self, reference: VqAutoencoder) -> VqAutoencoder:
        """An autoencoder like the reference's with the decoder as it begins."""
        config = light_config(reference.config, self)
        made = VqAutoencoder(config).eval().requires_grad_(False)
        state = made.state_dict()
        known = reference.state_dict()
        shared = {name: known[name] for name in state if not name.startswith("decoder.")}
        made.load_state_dict(shared | {f"decoder.{name}": each for name, each in begun(made, reference).items()})
        return made

    def task(self, training: TokenSet) -> tuple[object, ...]:
        """What the loss is made of."""
        return (training.fingerprint(), self.batch, self.absolute, self.coarse, self.edges, self.precision)

    def rehearsal(self) -> tuple[Self, float]:
        """Two steps."""
        lighter = replace(self, steps=min(self.steps, REHEARSED_STEPS))
        return lighter, self.work / lighter.work

    @property
    def work(self) -> float:
        """What teaching takes, in pictures that the smaller decoder shows: steps, validations, and their references."""
        validations = 1 + -(-self.steps // self.validate_every)
        return AS_MANY * self.steps * self.batch + (AS_MANY + validations) * VALIDATION

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The pixels of the training pictures that are drawn."""
        tokenizer = reference.tokenizer
        if not isinstance(tokenizer, VqTokenizer) or not isinstance(tokenizer.autoencoder, VqAutoencoder):
            return 0
        drawn = min(self.steps * self.batch, len(tokens.part("train")))
        return min(MOST_BYTES, drawn * picture_bytes(tokenizer.autoencoder, tokenizer.grid))


def light_config(config: VqConfig, settings: DistillDecoder) -> VqConfig:
    """The config with a light decoder: at the latents' resolution as wide as it is, narrower above."""
    lowest = config.decoder_channels[-1]
    above = config.decoder_channels[-2::-1][: settings.levels - 1]
    widths = (max(1, round(each * settings.width / CHANNELS_TOGETHER)) * CHANNELS_TOGETHER for each in above)
    all_low = 2 + config.decoder_blocks  # the middle has two
    channels = (lowest, *widths)
    depth = (min(settings.low_blocks or all_low, all_low), *(settings.blocks,) * len(above))
    return replace(config, middle_attention=False, attention_levels=(), light=LightConfig(channels, depth))


def begun(autoencoder: VqAutoencoder, reference: VqAutoencoder) -> dict[str, Tensor]:
    """The weights that a light decoder begins with: the reference's stem and blocks at the latents' resolution."""
    student, decoder = autoencoder.decoder, reference.decoder
    assert isinstance(student, LightDecoder)
    assert isinstance(decoder, DecoderNetwork)
    state = student.state_dict()
    copied: dict[str, nn.Module] = {"stem": decoder.stem}
    lowest = decoder.levels[0]
    assert isinstance(lowest, Level)
    blocks = [*decoder.middle.blocks, *lowest.blocks][: len(student.first)]
    copied |= {f"first.{index}": block for index, block in enumerate(blocks)}
    for place, module in copied.items():
        state |= {f"{place}.{name}": each for name, each in module.state_dict().items()}
    return state


def weight_count(module: nn.Module) -> int:
    """Numbers that a module learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def products(decoder: nn.Module, features: Tensor) -> int:
    """Multiplications of a decoder's convolutions for features (1, z, h, w)."""
    found = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal found
        assert isinstance(module, nn.Conv2d)
        found += made[0, 0].numel() * module.weight.numel()

    hooks = [each.register_forward_hook(count) for each in decoder.modules() if isinstance(each, nn.Conv2d)]
    try:
        with torch.no_grad():
            decoder(features)
    finally:
        for hook in hooks:
            hook.remove()
    return found

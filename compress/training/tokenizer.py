"""Train a VQ tokenizer on pictures: `compress train` of a recipe with a `tokenizer:` block.

The codebook learns by moving averages of the latents that choose each code (VQ-VAE, arXiv 1711.00937, appendix A.1).
It starts from clusters of the latents of an autoencoder trained without it, and codes that nobody chooses get a new
place.

Letters: B batch, S side of a crop, K codes, z their width, L latents of a step.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from compress.core import durable
from compress.core.settings import (
    MOST_BATCH,
    MOST_LEARNING_RATE,
    MOST_SEED,
    MOST_SIDE,
    MOST_STEPS,
    MOST_THREADS,
    MOST_WEIGHT,
    InputError,
    digest,
    parse,
    plain,
    setting,
)
from compress.core.store import errors_said, prepare_output
from compress.core.strict_yaml import read_yaml
from compress.data.reading import Reading
from compress.models.tokenizer import tokenizer_folder
from compress.models.tokenizer.codebook import Codebook, channels_last
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.training.augment import AugmentSettings
from compress.training.device import Precision, computing, find_device
from compress.training.loop import OnProgress, Schedule, fit
from compress.training.pictures import PictureSource, open_pictures, say_remarks
from compress.training.world import ALONE, World

# A code chosen this much less often than the mean one is dead, and gets the place of a latent.
DEAD_SHARE = 0.1
# Restarts come this many steps apart: a new code needs some steps to show whether it is chosen.
RESTART_EVERY = 25
# The codebook's start: crops whose latents are clustered, and rounds of k-means (more change little).
CLUSTER_CROPS = 128
CLUSTER_ROUNDS = 10
# Crops that judge whether every code is used.
USAGE_CROPS = 2000
VALIDATION_CROPS = 60
FEW_CLASSES = 32  # of which each one's error is said


@dataclass(frozen=True)
class TokenizerTrainSettings:
    """How long, how fast, and what counts."""

    steps: int = setting(doc="optimizer steps", low=1, high=MOST_STEPS)
    batch: int = setting(8, doc="crops of a step", low=1, high=MOST_BATCH)
    crop: int = setting(
        64, doc="side of the crops, pixels; the same number of pixels in whole crops follows", low=8, high=MOST_SIDE
    )
    whole: float = setting(0.2, doc="share of the steps, the last ones, that see whole crops", low=0, high=1)
    continuous: int = setting(
        300, doc="steps without the codebook, before it starts from clusters", low=1, high=MOST_STEPS
    )
    restarts: float = setting(0.8, doc="share of the steps in which dead codes are restarted", low=0, high=1)
    learning_rate: float = setting(1e-3, doc="peak of the cosine schedule", low=0, high=MOST_LEARNING_RATE)
    warmup: int = setting(100, doc="steps of linear warm-up", low=0, high=MOST_STEPS)
    weight_decay: float = setting(1e-4, doc="AdamW weight decay of the matrices", low=0, high=MOST_WEIGHT)
    absolute: float = setting(1.0, doc="weight of the mean absolute error", low=0, high=MOST_WEIGHT)
    squared: float = setting(4.0, doc="weight of the mean squared error", low=0, high=MOST_WEIGHT)
    gradient: float = setting(
        0.5, doc="weight of the mean absolute error of differences between neighbours", low=0, high=MOST_WEIGHT
    )
    commitment: float = setting(
        0.25, doc="weight of the latents' squared distance to their codes", low=0, high=MOST_WEIGHT
    )
    code_decay: float = setting(0.99, doc="decay of the codes' moving averages", low=0, high=1)
    ema: float = setting(0.998, doc="decay of the weight average that is kept; 0 keeps the last weights", low=0, high=1)
    validate_every: int = setting(250, doc="steps between validations", low=1, high=MOST_STEPS)
    threads: int = setting(
        2, doc="torch threads; results are reproducible for an equal number", low=1, high=MOST_THREADS
    )
    device: Literal["cpu", "cuda"] = setting("cpu", doc="where to train; a GPU gives other roundings")
    precision: Precision = setting("float32", doc="of products: float32, tf32 (GPUs) or bfloat16 (autocast)")


@dataclass(frozen=True)
class TokenizerRecipe:
    """A whole training run."""

    name: str = setting(doc="the tokenizer's name")
    pictures: str = setting(doc="what to train on: 'emoji', or a folder of pictures")
    tokenizer: VqConfig = setting(doc="the architecture")
    train: TokenizerTrainSettings = setting(doc="the schedule and the loss")
    side: int = setting(0, doc="pixels of a side that pictures of a folder are scaled to", low=0, high=MOST_SIDE)
    augment: AugmentSettings = setting(AugmentSettings(), doc="how pictures are varied")
    reading: Reading = setting(Reading(), doc="how pictures of a folder get their shape and background")
    seed: int = setting(0, doc="seed of everything random", low=0, high=MOST_SEED)

    @classmethod
    def load(cls, path: Path) -> TokenizerRecipe:
        """Read and check a YAML file.

        Raises:
            InputError: also for what this training cannot do.
        """
        recipe = parse(cls, read_yaml(path), f"{path}:")
        config = recipe.tokenizer
        if config.scales is not None or config.normalised_codes or not config.encoder_channels:
            raise InputError(f"{path}: tokenizer: only an encoder with one plain codebook is trained here")
        return recipe

    def check(self, source: PictureSource) -> None:
        """Refuse pictures that the tokenizer cannot cut into tokens.

        Raises:
            InputError: says why.
        """
        side, crop, factor = source.side, self.train.crop, self.tokenizer.factor
        if side % factor or crop % factor or crop > side:
            raise InputError(
                f"{self.name}: train.crop: {crop} must be a multiple of the {factor} pixels of a token, "
                f"and at most {side}, of which they must be a divisor"
            )


def to_pixels(images: Tensor, config: VqConfig) -> Tensor:
    """Pictures uint8 (B, S, S, 3) as the autoencoder reads them (B, 3, S, S)."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return pixels * 2 - 1 if config.pixel_range == "signed" else pixels


def reconstruction_loss(made: Tensor, wanted: Tensor, settings: TokenizerTrainSettings) -> Tensor:
    """Absolute and squared error, and that of differences between neighbours: edges count beyond their pixels."""
    error = made - wanted  # (B, 3, S, S)
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return settings.absolute * error.abs().mean() + settings.squared * error.square().mean() + settings.gradient * edges


def clusters(points: Tensor, count: int, rounds: int) -> Tensor:
    """Centres (K, z) of points (L, z) by Lloyd's k-means from evenly spread points; an empty centre stays."""
    centres = points[torch.linspace(0, len(points) - 1, count).long()].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where((sizes > 0)[:, None], sums / sizes.clamp(min=1)[:, None], centres)
    return centres


class TokenizerTraining(nn.Module):
    """An autoencoder with what its training carries from step to step; all of it is in the state, so it resumes."""

    counts: Tensor
    sums: Tensor

    def __init__(self, config: VqConfig, settings: TokenizerTrainSettings, world: World = ALONE) -> None:
        super().__init__()
        self.autoencoder = VqAutoencoder(config)
        self.settings, self.world = settings, world
        self.autoencoder.embedding.weight.requires_grad_(False)  # moving averages, not gradients, move the codes
        self.register_buffer("counts", torch.ones(config.codes))  # latents of a step that choose the code, averaged
        self.register_buffer("sums", torch.zeros(config.codes, config.code_width))  # and the sum of those latents
        self.seen = torch.zeros(0, config.code_width)  # (L, z) this process's latents of the step under way

    def loss(self, images: Tensor, coded: bool) -> Tensor:
        """The loss of pictures uint8 (B, S, S, 3): through the codes, or past them while there are none yet."""
        pixels = to_pixels(images, self.autoencoder.config)
        latents = self.autoencoder.latents(pixels)  # (B, z, h, w)
        self.seen = channels_last(latents.detach()).flatten(0, 2).float()
        if not coded:
            return reconstruction_loss(self.autoencoder.decode(latents), pixels, self.settings)
        chosen = self.autoencoder.lookup(self.autoencoder.quantize(latents.detach()))
        commitment = functional.mse_loss(latents, chosen)
        made = self.autoencoder.decode(latents + (chosen - latents).detach())  # straight through
        return reconstruction_loss(made, pixels, self.settings) + self.settings.commitment * commitment

    def place_codes(self, latents: Tensor, latents_of_a_step: int) -> None:
        """Start the codebook from clusters of latents (L, z)."""
        weight = self.autoencoder.embedding.weight
        with torch.no_grad():
            weight.copy_(clusters(latents, len(weight), CLUSTER_ROUNDS))
            self.counts.fill_(latents_of_a_step / len(weight))
            self.sums.copy_(weight * self.counts[:, None])

    def move_codes(self, restart: bool) -> int:
        """Move the codes towards the latents just seen; with `restart`, give dead ones a place. Returns how many."""
        book, decay = self.autoencoder.quantizer, self.settings.code_decay
        assert isinstance(book, Codebook)
        total, seen_by_all = self.world.total, len(self.seen) * self.world.size
        with torch.no_grad():
            nearest, size = book.nearest(self.seen), len(self.counts)
            self.counts.lerp_(total(torch.bincount(nearest, minlength=size).float()), 1 - decay)
            self.sums.lerp_(total(torch.zeros_like(self.sums).index_add_(0, nearest, self.seen)), 1 - decay)
            mean = float(self.counts.mean())
            dead = torch.flatten(torch.nonzero(self.counts < DEAD_SHARE * mean)) if restart else torch.zeros(0).long()
            dead = dead[:seen_by_all]
            if restart:
                self.sums[dead] = self.latents_at(torch.randperm(seen_by_all)[: len(dead)]) * mean
            self.counts[dead] = mean
            # A code that nobody chose for long has counts near zero; its place is then the ratio of two tiny numbers.
            alive = self.counts > 1e-6
            weight = self.autoencoder.embedding.weight
            weight[alive] = self.sums[alive] / self.counts[alive, None]
        return len(dead)

    def latents_at(self, places: Tensor) -> Tensor:
        """The latents (n, z) at these places (n,) among those that all processes saw, in the order of the batch."""
        places = places.to(self.seen.device) - self.world.rank * len(self.seen)
        own = (places >= 0) & (places < len(self.seen))
        return self.world.total(torch.where(own[:, None], self.seen[places.clamp(0, len(self.seen) - 1)], 0))


def psnr(squared_error: float) -> float:
    """Peak signal-to-noise ratio, dB, of a mean squared error of values from 0 to 255."""
    return 10 * math.log10(255**2 / max(squared_error, 1e-9))


def squared_errors(tokenizer: VqTokenizer, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean squared error (N,) of each picture (N, H, W, 3) after tokens and back, of values from 0 to 255."""
    made = tokenizer.decode(tokenizer.encode(images))
    errors: NDArray[np.float64] = np.square(made.astype(np.float64) - images).mean(axis=(1, 2, 3))
    return errors


def measure(tokenizer: VqTokenizer, source: PictureSource, seed: int) -> dict[str, float]:
    """PSNR of all held-out pictures (dB, of the error's mean) and the share of codes that are used.

    Where there are few classes, the PSNR of each too.
    """
    images, labels = source.part("held_out")
    errors = squared_errors(tokenizer, images)
    found = {"psnr": psnr(float(errors.mean()))}
    if 0 < len(source.classes) <= FEW_CLASSES:
        present = [(name, labels == label) for label, name in enumerate(source.classes) if (labels == label).any()]
        own = {f"psnr_{name}": psnr(float(errors[rows].mean())) for name, rows in present}
        found |= {"psnr_mean_of_classes": float(np.mean(list(own.values()))), **own}
    generator = np.random.Generator(np.random.Philox(seed))
    pictures, _ = source.batch(USAGE_CROPS, source.side, AugmentSettings(), generator)
    used = np.unique(tokenizer.encode(pictures.cpu().numpy()))
    return {**found, "used_codes_share": len(used) / tokenizer.vocabulary}


def root_mean_square(tokenizer: VqTokenizer, images: NDArray[np.uint8], world: World) -> float:
    """Root mean squared error of pictures (N, H, W, 3) after tokens and back; each process has a share of them."""
    own = images[world.rank :: world.size]
    return math.sqrt(world.sum_of(float(squared_errors(tokenizer, own).sum()) if len(own) else 0.0) / len(images))


def train_tokenizer(
    recipe: TokenizerRecipe, output: Path, report: OnProgress | None = None, world: World = ALONE
) -> dict[str, float]:
    """Train, resuming from `output/checkpoint.pt` if it is there, and write the tokenizer's folder.

    Writes model.safetensors (fp16), config.json and training.json (recipe, log, what `measure` says) into `output`. In
    a `world` of several processes each calls this; the first one measures and writes.

    Returns:
        What `measure` says of the fp16 weights as shipped.
    """
    settings, config = recipe.train, recipe.tokenizer
    torch.set_num_threads(settings.threads)
    with world.agreed():
        device = find_device(settings.device, f"{recipe.name}: train.device", world)
        source = open_pictures(recipe.pictures, device, f"{recipe.name}: pictures", recipe.side, recipe.reading)
        recipe.check(source)
        whole_batch = max(1, settings.batch * settings.crop**2 // source.side**2)
        world.check(settings.batch, f"{recipe.name}: train.batch")
        if settings.whole:
            world.check(whole_batch, f"{recipe.name}: train.batch: pictures of a step of whole crops")
        if world.first:
            say_remarks(source, recipe.pictures)
            prepare_output(output)
    torch.manual_seed(recipe.seed)
    training = TokenizerTraining(config, settings, world).to(device)
    tokenizer = VqTokenizer(training.autoencoder, (source.side // config.factor,) * 2)
    validation = source.part("validation", VALIDATION_CROPS)[0]

    def pictures(count: int, side: int, step: int, generator: np.random.Generator) -> Tensor:
        change = recipe.augment if step < recipe.augment.until * settings.steps else AugmentSettings()
        return source.batch(count, side, change, generator)[0]

    def loss(step: int) -> Tensor:
        generator = np.random.Generator(np.random.Philox(key=recipe.seed, counter=[0, 0, 0, step]))
        whole = step >= (1 - settings.whole) * settings.steps
        count, side = (whole_batch, source.side) if whole else (settings.batch, settings.crop)
        images = pictures(count, side, step, generator)[world.rows(count)]
        with computing(device, settings.precision):
            return training.loss(images, coded=step >= settings.continuous) / world.size

    def after(step: int) -> None:
        if step + 1 == settings.continuous:
            generator = np.random.Generator(np.random.Philox(key=recipe.seed, counter=[0, 0, 1, 0]))
            crops = pictures(CLUSTER_CROPS, settings.crop, step, generator)
            with torch.no_grad():
                latents = torch.cat(
                    [training.autoencoder.latents(to_pixels(part, config)) for part in crops.tensor_split(16)]
                )
            training.place_codes(channels_last(latents).flatten(0, 2), len(training.seen) * world.size)
            world.alike(training)
        elif step >= settings.continuous:
            training.move_codes(step % RESTART_EVERY == 0 and step < settings.restarts * settings.steps)

    started = time.monotonic()
    schedule = Schedule(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        ema=settings.ema,
        validate_every=settings.validate_every,
    )
    with errors_said(output):
        log = fit(
            training,
            loss,
            schedule,
            seed=recipe.seed,
            validate=lambda _: root_mean_square(tokenizer, validation, world),
            task=digest(recipe),
            checkpoint=output / "checkpoint.pt",
            report=report,
            after=after,
            world=world,
        )
    seconds = time.monotonic() - started
    return world.from_first(lambda: publish(recipe, tokenizer, source, output, log, seconds))


def publish(
    recipe: TokenizerRecipe,
    tokenizer: VqTokenizer,
    source: PictureSource,
    output: Path,
    log: list[dict[str, float]],
    seconds: float,
) -> dict[str, float]:
    """Measure what was trained and write its folder; the training's own checkpoint is not needed any more.

    Raises:
        InputError: training diverged.
    """
    autoencoder = tokenizer.autoencoder
    autoencoder.half().float()  # what is shipped is what is measured
    result = measure(tokenizer, source, recipe.seed)
    autoencoder.cpu()
    if not all(map(math.isfinite, [*result.values(), log[-1]["loss"]])):
        raise InputError(f"{recipe.name}: training diverged ({result}); use a smaller train.learning_rate")
    with errors_said(output), durable.files_of(output) as draft:
        tokenizer_folder.save(tokenizer, recipe.name, draft)
        record = {
            "recipe": plain(recipe),
            "parameters": sum(parameter.numel() for parameter in autoencoder.parameters()),
            "classes": list(source.classes),
            "weights_sha256": hashlib.sha256((draft / tokenizer_folder.WEIGHTS).read_bytes()).hexdigest(),
            "seconds_of_last_run": round(seconds, 1),
            **result,
            "log": log,
        }
        (draft / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (output / "checkpoint.pt").unlink(missing_ok=True)
    return result

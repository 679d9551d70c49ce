"""Train a reference model from a recipe: what `compress train` does.

Letters: B batch, T tokens of a picture, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from calibration.tokens import Part, TokenSet
from compress.core import durable
from compress.core.settings import (
    MOST_BATCH,
    MOST_LAYERS,
    MOST_LEARNING_RATE,
    MOST_SEED,
    MOST_SIDE,
    MOST_STEPS,
    MOST_THREADS,
    MOST_WEIGHT,
    MOST_WIDTH,
    MOST_WORDS,
    InputError,
    digest,
    parse,
    plain,
    setting,
)
from compress.core.store import errors_said, prepare_output
from compress.core.strict_yaml import read_yaml
from compress.data.reading import Reading
from compress.data.tokens import open_source
from compress.models.families import locate
from compress.models.image_model import ImageModel
from compress.models.tokenizer import tokenizer_folder
from compress.models.tokenizer.model import PixelTokenizer, Tokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.examples import examples, examples_of, nll
from compress.models.transformer.model import TokenTransformer
from compress.training import sharding
from compress.training.augment import AugmentSettings
from compress.training.batches import Batches, EncodedPictures, TokenBatches, on_device
from compress.training.device import Precision, computing, find_device
from compress.training.dropout import dropout_of
from compress.training.loop import OnProgress, Schedule, fit
from compress.training.pictures import SOURCES, open_pictures, say_remarks
from compress.training.teaching import LARGE_PRIME
from compress.training.world import ALONE, World
from export.runtime.orders import order_called
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

MOST_TOKENS = 65_536  # of a picture: 256 x 256
MOST_PARAMETERS = 2 * 10**9  # with gradients and AdamW's averages they take 32 GB


@dataclass(frozen=True)
class ModelSettings:
    """The architecture to train."""

    grid: tuple[int, int] = setting(doc="rows and columns of tokens", low=1, high=MOST_SIDE)
    vocabulary: int = setting(doc="image tokens", low=2, high=MOST_WORDS)
    classes: int = setting(doc="classes, without the null class", low=1, high=MOST_WORDS)
    width: int = setting(doc="width of the residual stream", low=8, high=MOST_WIDTH)
    layers: int = setting(doc="layers", low=1, high=MOST_LAYERS)
    heads: int = setting(doc="attention heads of a layer", low=1, high=MOST_WIDTH)
    head_width: int = setting(doc="width of a head", low=4, high=MOST_WIDTH)
    ffn: int = setting(doc="feed-forward units of a layer", low=1, high=MOST_WIDTH)
    rotary_base: float = setting(
        100.0, doc="base of the 2-D rotary positions; small grids want a small one", low=1, high=MOST_WEIGHT
    )
    order: Literal["causal", "masked"] = setting("causal", doc="drawn token by token, or mask by mask")
    tokenizer: str = setting("", doc="a shipped image tokenizer's name, or its folder; grey levels if not given")

    def __post_init__(self) -> None:
        """Refuse models that no machine trains here: they would end a run for want of memory, far from the cause.

        Raises:
            ValueError: which number is too large together with which.
        """
        if self.grid[0] * self.grid[1] > MOST_TOKENS:
            raise ValueError(f"grid {self.grid} has more than {MOST_TOKENS} tokens")
        layer = 4 * self.width * self.heads * self.head_width + 3 * self.width * self.ffn
        parameters = self.layers * layer + self.width * (2 * self.vocabulary + self.classes)
        if parameters > MOST_PARAMETERS:
            raise ValueError(
                f"width {self.width}, layers {self.layers}, heads {self.heads}, ffn {self.ffn}: about "
                f"{parameters:.2g} parameters; at most {MOST_PARAMETERS:.2g} are trained here"
            )

    def config(self) -> TransformerConfig:
        """The transformer's config; a masked one is built as Halton-MaskGIT (arXiv 2503.17076)."""
        masked: dict[str, Any] = {
            "order": "masked",
            "positions": "learned",
            "modulation": "class",
            "qk_norm": "rms",
            "registers": 1,
            "tied_head": True,
            "head_bias": True,
        }
        return TransformerConfig(
            vocabulary=self.vocabulary,
            classes=self.classes,
            grid=self.grid,
            width=self.width,
            head_width=self.head_width,
            layers=(LayerConfig(self.heads, self.heads, self.ffn),) * self.layers,
            rotary_base=self.rotary_base,
            **(masked if order_called(self.order).masks else {}),
        )

    def image_tokenizer(self, where: str) -> Tokenizer:
        """The tokenizer whose tokens the model draws.

        Raises:
            InputError: its tokens are not the model's.
        """
        if not self.tokenizer:
            return PixelTokenizer(self.vocabulary, self.grid)
        tokenizer = tokenizer_folder.load(locate(self.tokenizer, where))
        if (tokenizer.vocabulary, tokenizer.grid) != (self.vocabulary, self.grid):
            raise InputError(
                f"{where}: has {tokenizer.vocabulary} tokens on a grid of {tokenizer.grid}; "
                f"the model has {self.vocabulary} on {self.grid}"
            )
        return tokenizer


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast."""

    steps: int = setting(doc="optimizer steps", low=1, high=MOST_STEPS)
    batch: int = setting(32, doc="pictures of a step", low=1, high=MOST_BATCH)
    learning_rate: float = setting(1e-3, doc="peak of the cosine schedule", low=0, high=MOST_LEARNING_RATE)
    warmup: int = setting(100, doc="steps of linear warm-up", low=0, high=MOST_STEPS)
    weight_decay: float = setting(0.05, doc="AdamW weight decay of the matrices", low=0, high=MOST_WEIGHT)
    dropout: float = setting(0.1, doc="dropout of attention weights and residual branches", low=0, high=0.9)
    null_share: float = setting(0.1, doc="share of labels replaced by the null class", low=0, high=1)
    ema: float = setting(0.998, doc="decay of the weight average that is kept; 0 keeps the last weights", low=0, high=1)
    validate_every: int = setting(100, doc="steps between validations", low=1, high=MOST_STEPS)
    threads: int = setting(
        2, doc="torch threads; results are reproducible for an equal number", low=1, high=MOST_THREADS
    )
    device: Literal["cpu", "cuda"] = setting("cpu", doc="where to train; a GPU gives other roundings")
    precision: Precision = setting("float32", doc="of products: float32, tf32 (GPUs) or bfloat16 (autocast)")
    sharded: bool = setting(
        False, doc="of several processes: each keeps a share of the weights (FSDP), for models larger than one device"
    )


@dataclass(frozen=True)
class TrainRecipe:
    """A whole training run."""

    name: str = setting(doc="the model's name")
    model: ModelSettings = setting(doc="the architecture")
    train: TrainSettings = setting(doc="the schedule")
    augment: AugmentSettings = setting(AugmentSettings(), doc="the augmentation")
    sampler: Sampler = setting(Sampler(), doc="how the model is sampled unless told otherwise")
    tokens: str = setting("digits", doc="'digits', 'emoji', or a TokenSet (.npz) of `compress tokens`")
    pictures: str = setting("", doc="in place of tokens: 'emoji' or a folder, varied anew and encoded at every step")
    reading: Reading = setting(Reading(), doc="how pictures of a folder get their shape and background")
    seed: int = setting(0, doc="seed of everything random", low=0, high=MOST_SEED)

    @classmethod
    def load(cls, path: Path) -> TrainRecipe:
        """Read and check a YAML file.

        Raises:
            InputError: also for settings that do not go together.
        """
        recipe = parse(cls, read_yaml(path), f"{path}:")
        if recipe.pictures and not recipe.model.tokenizer:
            raise InputError(f"{path}: pictures: {recipe.pictures} need model.tokenizer, which encodes them")
        if recipe.pictures and recipe.tokens != "digits":
            raise InputError(f"{path}: pictures {recipe.pictures} and tokens {recipe.tokens}: give one of the two")
        if not recipe.pictures and (recipe.augment.mirror or recipe.augment.recolour):
            raise InputError(f"{path}: augment: mirror and recolour change pictures; give pictures in place of tokens")
        return recipe


def check_tokens(data: TokenSet, config: TransformerConfig, recipe: TrainRecipe) -> None:
    """Refuse tokens that the model cannot read, or that are too few.

    Raises:
        InputError: which, and what the model reads.
    """
    where = f"{recipe.name}: {f'pictures {recipe.pictures}' if recipe.pictures else f'tokens {recipe.tokens}'}"
    length, token, label = data.tokens.shape[1], data.tokens.max(), data.labels.max()
    if length != config.length or token >= config.vocabulary or label > config.classes:
        raise InputError(
            f"{where}: pictures of {length} tokens up to {token}, classes up to {label}; the model reads "
            f"{config.length} tokens below {config.vocabulary}, and classes up to {config.classes}"
        )
    if data.class_names and len(data.class_names) != config.classes:
        raise InputError(f"{where}: has {len(data.class_names)} classes; model.classes is {config.classes}")
    needed: dict[Part, int] = {"train": 0 if recipe.pictures else recipe.train.batch, "validation": 1, "held_out": 1}
    for part, count in needed.items():
        try:
            data.part(part, count)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error


def mean_nll(model: nn.Module, tokens: TokenSet, shape: Shape, batch: int = 128, world: World = ALONE) -> float:
    """Teacher-forced negative log-likelihood, nats per token that is asked for; pictures count the same.

    Of several processes each scores a share, and all know the whole.
    """
    chunks = world.dealt(list(examples(shape, tokens).chunks(batch)))
    with torch.no_grad():
        return world.sum_of(sum(float(nll(model, chunk).sum()) for chunk in chunks)) / len(tokens)


def train(
    recipe: TrainRecipe, output: Path, report: OnProgress | None = None, world: World = ALONE
) -> dict[str, float]:
    """Train, resuming from `output/checkpoint.pt` if it is there, and write a checkpoint of the family `reference`.

    Writes model.safetensors (fp16), config.json and training.json (recipe, log, held-out NLL) into `output`. In a
    `world` of several processes each calls this; the first one writes.

    Returns:
        The final validation and held-out NLL, nats per token, of the fp16 weights as shipped.
    """
    with world.agreed():
        torch.set_num_threads(recipe.train.threads)
        settings = recipe.train
        world.check(settings.batch, f"{recipe.name}: train.batch")
        rows, sharded = world.rows(settings.batch), settings.sharded and world.size > 1
        try:
            config = recipe.model.config()
        except ValueError as error:
            raise InputError(f"{recipe.name}: model: {error}") from error
        tokenizer = recipe.model.image_tokenizer(f"{recipe.name}: model.tokenizer")
        device = find_device(settings.device, f"{recipe.name}: train.device", world)
        batches: Batches
        if recipe.pictures:
            side = 0 if recipe.pictures in SOURCES else tokenizer.picture[0]
            source = open_pictures(recipe.pictures, device, f"{recipe.name}: pictures", side, recipe.reading)
            if world.first:
                say_remarks(source, recipe.pictures)
            batches = EncodedPictures(recipe, source, on_device(tokenizer, device), rows)
        else:
            batches = TokenBatches(recipe, open_source(recipe.tokens, f"{recipe.name}: tokens"))
        data = batches.data
        check_tokens(data, config, recipe)
        if world.first:
            prepare_output(output)
    validation, held_out = data.part("validation"), data.part("held_out")
    model = TokenTransformer(config)
    model.initialise(torch.Generator().manual_seed(recipe.seed))
    model.set_dropout(settings.dropout)
    if sharded:
        sharding.shard(model, world, device)
    model.to(device)
    scoring = ALONE if sharded else world  # each call of a split model takes all processes

    def loss(step: int) -> Tensor:
        generator = np.random.Generator(np.random.Philox(key=recipe.seed, counter=[0, 0, 0, step]))
        tokens, labels = batches.batch(step, generator)
        labels = np.where(generator.random(len(labels)) < settings.null_share, config.null_class, labels)
        own = examples_of(config.shape, tokens, labels, recipe.seed * LARGE_PRIME + step).take(rows)
        with computing(device, settings.precision), dropout_of(world, settings.batch, device):
            return nll(model, own).mean() / world.size

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
            model,
            loss,
            schedule,
            seed=recipe.seed,
            validate=lambda trained: mean_nll(trained, validation, config.shape, world=scoring),
            task=digest(recipe, data.fingerprint()),
            checkpoint=output / "checkpoint.pt",
            report=report,
            world=world,
            sharded=sharded,
        )
    with torch.no_grad():
        for weight in model.parameters():  # what is shipped is what is measured
            weight.copy_(weight.half())
    result = {
        "validation_nll": mean_nll(model, validation, config.shape, world=scoring),
        "held_out_nll": mean_nll(model, held_out, config.shape, world=scoring),
    }
    cpu = torch.device("cpu")
    trained = sharding.gathered(model) if sharded else model.to(cpu)

    def publish() -> dict[str, float]:
        if not all(map(math.isfinite, result.values())):
            raise InputError(f"{recipe.name}: training diverged (NLL {result}); use a smaller train.learning_rate")
        made = ImageModel(
            recipe.name, "reference", trained, on_device(tokenizer, cpu), recipe.sampler, data.class_names
        )
        seconds = time.monotonic() - started
        with errors_said(output):
            write(recipe, made, output, {"tokens_sha256": data.fingerprint()}, seconds, result, log)
        return result

    return world.from_first(publish)


def write(
    recipe: TrainRecipe,
    trained: ImageModel,
    output: Path,
    data: dict[str, str],
    seconds: float,
    result: dict[str, float],
    log: list[dict[str, float]],
) -> None:
    """Write the checkpoint with the training's record; the training's own checkpoint is not needed any more."""
    from compress.models.families import reference

    with durable.files_of(output) as draft:
        reference.save(trained, draft, half=True)
        record = {
            "recipe": plain(recipe),
            "parameters": trained.parameters(),
            **data,
            "weights_sha256": hashlib.sha256((draft / reference.WEIGHTS).read_bytes()).hexdigest(),
            "seconds_of_last_run": round(seconds, 1),
            **result,
            "log": log,
        }
        (draft / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (output / "checkpoint.pt").unlink(missing_ok=True)

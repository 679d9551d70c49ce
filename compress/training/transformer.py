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

from calibration.augment import Augment, augmented
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
from compress.data.tokens import open_source
from compress.models.families import locate
from compress.models.image_model import ImageModel
from compress.models.tokenizer import tokenizer_folder
from compress.models.tokenizer.model import PixelTokenizer, Tokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.examples import asked, examples, nll
from compress.models.transformer.model import TokenTransformer
from compress.training.loop import Report, Schedule, fit
from compress.training.teaching import LARGE_PRIME
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
class AugmentSettings:
    """How pictures are varied."""

    shift: float = setting(0.0, doc="largest shift, pixels", low=0, high=MOST_SIDE)
    turn: float = setting(0.0, doc="largest turn, degrees", low=0, high=180)
    scale: float = setting(0.0, doc="largest change of size, as a share", low=0, high=0.9)
    untouched: float = setting(0.0, doc="share of pictures left as they are", low=0, high=1)
    until: float = setting(1.0, doc="share of the steps that augment; the rest see real pictures only", low=0, high=1)


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


@dataclass(frozen=True)
class TrainRecipe:
    """A whole training run."""

    name: str = setting(doc="the model's name")
    model: ModelSettings = setting(doc="the architecture")
    train: TrainSettings = setting(doc="the schedule")
    augment: AugmentSettings = setting(AugmentSettings(), doc="the augmentation")
    sampler: Sampler = setting(Sampler(), doc="how the model is sampled unless told otherwise")
    tokens: str = setting("digits", doc="'digits', 'photos', or a TokenSet (.npz) that `compress tokens` wrote")
    seed: int = setting(0, doc="seed of everything random", low=0, high=MOST_SEED)

    @classmethod
    def load(cls, path: Path) -> TrainRecipe:
        """Read and check a YAML file."""
        return parse(cls, read_yaml(path), f"{path}:")


def check_tokens(data: TokenSet, config: TransformerConfig, recipe: TrainRecipe) -> None:
    """Refuse tokens that the model cannot read, or that are too few.

    Raises:
        InputError: which, and what the model reads.
    """
    where = f"{recipe.name}: tokens {recipe.tokens}"
    length, token, label = data.tokens.shape[1], data.tokens.max(), data.labels.max()
    if length != config.length or token >= config.vocabulary or label > config.classes:
        raise InputError(
            f"{where}: pictures of {length} tokens up to {token}, classes up to {label}; the model reads "
            f"{config.length} tokens below {config.vocabulary}, and classes up to {config.classes}"
        )
    needed: dict[Part, int] = {"train": recipe.train.batch, "validation": 1, "held_out": 1}
    for part, count in needed.items():
        try:
            data.part(part, count)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error


def mean_nll(model: nn.Module, tokens: TokenSet, shape: Shape, batch: int = 128) -> float:
    """Teacher-forced negative log-likelihood, nats per token that is asked for; pictures count the same."""
    with torch.no_grad():
        return sum(float(nll(model, chunk).sum()) for chunk in examples(shape, tokens).chunks(batch)) / len(tokens)


def train(recipe: TrainRecipe, output: Path, report: Report | None = None) -> dict[str, float]:
    """Train, resuming from `output/checkpoint.pt` if it is there, and write a checkpoint of the family `reference`.

    Writes model.safetensors (fp16), config.json and training.json (recipe, log, held-out NLL) into `output`.

    Returns:
        The final validation and held-out NLL, nats per token, of the fp16 weights as shipped.
    """
    from compress.models.families import reference

    torch.set_num_threads(recipe.train.threads)
    settings = recipe.train
    try:
        config = recipe.model.config()
    except ValueError as error:
        raise InputError(f"{recipe.name}: model: {error}") from error
    tokenizer = recipe.model.image_tokenizer(f"{recipe.name}: model.tokenizer")
    data = open_source(recipe.tokens, f"{recipe.name}: tokens")
    check_tokens(data, config, recipe)
    prepare_output(output)
    training, validation, held_out = data.part("train"), data.part("validation"), data.part("held_out")
    model = TokenTransformer(config)
    model.initialise(torch.Generator().manual_seed(recipe.seed))
    model.set_dropout(settings.dropout)
    change = Augment(recipe.augment.shift, recipe.augment.turn, recipe.augment.scale, recipe.augment.untouched)

    def loss(step: int) -> Tensor:
        generator = np.random.Generator(np.random.Philox(key=recipe.seed, counter=[0, 0, 0, step]))
        batch = training.take(generator.choice(len(training), size=settings.batch, replace=False))
        if recipe.augment != AugmentSettings() and step < recipe.augment.until * settings.steps:
            moved = augmented(batch.tokens, config.grid, config.vocabulary, change, generator)
            batch = TokenSet(moved, batch.labels, batch.parts)
        labels = np.where(generator.random(len(batch)) < settings.null_share, config.null_class, batch.labels)
        return nll(model, asked(config.shape, batch.tokens, labels, recipe.seed * LARGE_PRIME + step)).mean()

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
            validate=lambda trained: mean_nll(trained, validation, config.shape),
            task=digest(recipe, data.fingerprint()),
            checkpoint=output / "checkpoint.pt",
            report=report,
        )
    model.half().float()  # what is shipped is what is measured
    result = {
        "validation_nll": mean_nll(model, validation, config.shape),
        "held_out_nll": mean_nll(model, held_out, config.shape),
    }
    if not all(map(math.isfinite, result.values())):
        raise InputError(f"{recipe.name}: training diverged (NLL {result}); use a smaller train.learning_rate")
    trained = ImageModel(recipe.name, "reference", model, tokenizer, recipe.sampler)
    with errors_said(output), durable.files_of(output) as draft:
        reference.save(trained, draft, half=True)
        record = {
            "recipe": plain(recipe),
            "parameters": trained.parameters(),
            "tokens_sha256": data.fingerprint(),
            "weights_sha256": hashlib.sha256((draft / reference.WEIGHTS).read_bytes()).hexdigest(),
            "seconds_of_last_run": round(time.monotonic() - started, 1),
            **result,
            "log": log,
        }
        (draft / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (output / "checkpoint.pt").unlink(missing_ok=True)
    return result

"""How long the two trainings of a folder take on this machine, foreseen from a few of their steps.

The steps are those of the training loop, with the very models, on random pictures. They are made with few pictures, and
a straight line through two numbers of them says what a whole batch takes. As in `pace.py`, what counts is the time that
this thread works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.reading import Reading
from compress.data.tokens import pictures_in, read_picture
from compress.drafting.pace import CLOCK, TOGETHER, Enough, best, on_threads, through
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.pictures import VqEncoder
from compress.models.transformer.examples import examples_of, nll
from compress.models.transformer.model import TokenTransformer
from compress.training.folder import HELD_OUT, VALIDATION
from compress.training.loop import Schedule, fit
from compress.training.tokenizer import (
    CLUSTER_CROPS,
    USAGE_CROPS,
    VALIDATION_CROPS,
    TokenizerRecipe,
    TokenizerTraining,
)
from compress.training.transformer import TrainRecipe

BATCHES = 2, 6  # pictures of the steps that are timed
STEPS = 4  # of each, the first of which warms up
LONG_S = 0.5  # steps that take as long together are enough
READ = 8  # pictures whose reading is timed


@dataclass(frozen=True)
class TrainingPace:
    """Seconds of a step of each training, and of a picture."""

    tokenizer_step: float
    model_step: float  # its pictures encoded
    encoded: float  # a whole picture to tokens
    decoded: float  # tokens to a picture
    scored: float  # tokens by the transformer
    read: float  # a file to a picture


def foresee(tokenizer: TokenizerRecipe, model: TrainRecipe, pictures: int, pace: TrainingPace) -> tuple[float, float]:
    """Seconds of both trainings on so many pictures: their steps, validations, and the measuring at the end."""
    validation, held_out = (max(1, round(share * pictures)) for share in (VALIDATION, HELD_OUT))
    again = pace.encoded + pace.decoded
    own, other = tokenizer.train, model.train
    crops = USAGE_CROPS + CLUSTER_CROPS * own.crop**2 / tokenizer.side**2
    checked = -(-own.steps // own.validate_every) * min(validation, VALIDATION_CROPS) + held_out
    first = own.steps * pace.tokenizer_step + checked * again + crops * pace.encoded
    checked = (1 + -(-other.steps // other.validate_every)) * validation + held_out
    second = other.steps * pace.model_step + checked * pace.scored + (validation + held_out) * pace.encoded
    return first + pictures * pace.read, second + pictures * pace.read


def pace_of(tokenizer: TokenizerRecipe, model: TrainRecipe) -> TrainingPace:
    """Look at a few steps and pictures of both; it takes some seconds."""
    read = reading(Path(tokenizer.pictures), tokenizer.side, tokenizer.reading)
    with on_threads(tokenizer.train.threads), torch.random.fork_rng(devices=()):
        training = TokenizerTraining(tokenizer.tokenizer, tokenizer.train)
        made = VqTokenizer(training.autoencoder, model.model.grid)
        tokenizer_step = step_of_tokenizer(training, tokenizer)
        pictures = random_pictures(TOGETHER, tokenizer.side)
        images, tokens = pictures.numpy(), np.zeros((TOGETHER, made.length), dtype=np.int64)
        encoded, decoded = (each / TOGETHER for each in (best(lambda: made.encode(images)),
                                                         best(lambda: made.decode(tokens))))  # fmt: skip
    with on_threads(model.train.threads), torch.random.fork_rng(devices=()):
        transformer = TokenTransformer(model.model.config())
        transformer.initialise(torch.Generator().manual_seed(0))
        transformer.set_dropout(model.train.dropout)
        model_step = step_of_model(transformer, made, model, tokenizer.side)
        transformer.eval()
        batch = examples_of(transformer.config.shape, tokens, np.zeros(TOGETHER, dtype=np.int64), 0)
        with torch.no_grad():
            scored = best(lambda: nll(transformer, batch)) / TOGETHER
    return TrainingPace(tokenizer_step, model_step, encoded, decoded, scored, read)


def step_of_tokenizer(training: TokenizerTraining, recipe: TokenizerRecipe) -> float:
    """Seconds of a step of the tokenizer's training."""
    settings = recipe.train

    def loss(pictures: int) -> Tensor:
        return training.loss(random_pictures(pictures, settings.crop), coded=True)

    return seconds_of_a_step(training, loss, settings.batch, settings.ema, lambda: training.move_codes(False))


def step_of_model(transformer: TokenTransformer, tokenizer: VqTokenizer, recipe: TrainRecipe, side: int) -> float:
    """Seconds of a step of the transformer's training, its pictures encoded."""
    encoder, shape = VqEncoder(tokenizer.autoencoder), transformer.config.shape

    def loss(pictures: int) -> Tensor:
        with torch.no_grad():
            tokens = encoder(random_pictures(pictures, side)).numpy()
        return nll(transformer, examples_of(shape, tokens, np.zeros(pictures, dtype=np.int64), 0)).mean()

    return seconds_of_a_step(transformer, loss, recipe.train.batch, recipe.train.ema)


def seconds_of_a_step(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    batch: int,
    ema: float,
    after: Callable[[], object] = lambda: None,
) -> float:
    """Seconds of a step of the training loop with a loss of so many pictures; the model learns nothing of use."""

    def with_pictures(count: int) -> float:
        return shortest_step(model, lambda _: loss(count), ema, after)

    sizes = sorted({min(each, batch) for each in BATCHES})
    return through(sizes, tuple(map(with_pictures, sizes)), batch)


def shortest_step(model: nn.Module, loss: Callable[[int], Tensor], ema: float, after: Callable[[], object]) -> float:
    """Seconds of the shortest of a few steps behind the first."""
    moments: list[float] = []

    def ended(_: int) -> None:
        after()
        moments.append(CLOCK())
        if len(moments) > 1 and moments[-1] - moments[0] > LONG_S:
            raise Enough

    with contextlib.suppress(Enough):
        fit(model, loss, Schedule(STEPS, 1e-4, ema=ema), seed=0, validate=lambda _: 0.0, after=ended)
    return float(np.diff(moments).min())


def reading(folder: Path, side: int, how: Reading) -> float:
    """Seconds to read a picture of a folder."""
    paths = sorted(pictures_in(folder))
    looked = paths[:: -(-len(paths) // READ)]
    began = CLOCK()
    for path in looked:
        read_picture(path, (side, side, 3), how)
    return (CLOCK() - began) / len(looked)


def random_pictures(count: int, side: int) -> Tensor:
    """Pictures uint8 (count, side, side, 3)."""
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)

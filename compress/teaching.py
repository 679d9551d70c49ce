"""What the reference teaches: its logits and hidden states for the examples that training will draw.

Letters: E examples, B batch, T tokens, D width, V vocabulary.

An example is a picture with its class, or with the null class (so that the branch that guidance needs is taught too).
All draws follow from (seed, step), so the examples of a whole run are known before it starts: each is scored once, in
fixed batches, and remembered. A run that resumes remembers exactly the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calibration.tokens import TokenSet
from compress.models.transformer import TokenTransformer
from compress.training import Report

BATCH = 32
MOST_BYTES = 2**29  # what is remembered at most; beyond it the reference is asked again at every step
MATCHED_LAYERS = 4  # hidden states compared at most, evenly spaced, the last layer always


@dataclass(frozen=True)
class Answer:
    """Logits (B, T, V) and hidden states, each (B, T, D)."""

    logits: Tensor
    hidden: tuple[Tensor, ...]


def matched_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """Which outputs of the student's and the teacher's layers are compared, by uniform depth; 0 is the embedding."""
    own = sorted({-(-student * part // MATCHED_LAYERS) for part in range(1, MATCHED_LAYERS + 1)})
    return [(layer, round(layer * teacher / student)) for layer in own]


def answer(transformer: TokenTransformer, inputs: Tensor, layers: Sequence[int]) -> Answer:
    """What a transformer says of inputs (B, T), with the hidden states of these layers."""
    streams = list(transformer.layer_outputs(inputs))
    return Answer(transformer.logits(streams[-1]), tuple(streams[layer] for layer in layers))


def kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over tokens of KL(teacher || student) of softened logits (B, T, V), times temperature squared, in nats.

    The square keeps gradients of one size for all temperatures: Hinton et al. 2015 (arXiv 1503.02531).
    """
    wanted, given = ((logits / temperature).log_softmax(-1).flatten(0, -2) for logits in (teacher, student))
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def hidden_loss(teacher: Answer, student: Answer) -> Tensor:
    """Mean over compared layers of the squared error relative to the teacher's mean square."""
    pairs = list(zip(teacher.hidden, student.hidden, strict=True))
    return torch.stack([functional.mse_loss(own, wanted) / wanted.square().mean() for wanted, own in pairs]).mean()


@dataclass(frozen=True)
class Draws:
    """Which examples each step sees, from (seed, step) alone."""

    pictures: TokenSet
    vocabulary: int
    null_class: int
    batch: int
    null_share: float
    seed: int

    def step(self, step: int) -> NDArray[np.int64]:
        """Examples (B,): the picture's row, plus the number of pictures where its class is withheld."""
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, step]))
        count = len(self.pictures)
        rows = generator.choice(count, size=self.batch, replace=self.batch > count)
        return rows + count * (generator.random(self.batch) < self.null_share)

    def inputs(self, examples: NDArray[np.int64]) -> Tensor:
        """What a transformer reads (B, T)."""
        inputs = self.pictures.take(examples % len(self.pictures)).inputs(self.vocabulary)
        inputs[examples >= len(self.pictures), 0] = self.vocabulary + self.null_class
        return torch.from_numpy(inputs)


class Teacher:
    """The reference, asked once for every example where memory allows."""

    def __init__(self, reference: TokenTransformer, draws: Draws, layers: Sequence[int]) -> None:
        self.reference, self.draws, self.layers = reference, draws, layers
        self.place: dict[int, int] = {}
        self.logits = torch.empty(0)
        self.hidden: list[Tensor] = []

    def prepare(self, steps: int, report: Report) -> None:
        """Score every example of the first `steps` steps, unless remembering them takes more than MOST_BYTES."""
        drawn = np.concatenate([self.draws.step(step) for step in range(steps)])
        examples = np.unique(drawn)
        config = self.reference.config
        per_token = 4 * config.vocabulary + 2 * config.width * len(self.layers)
        if len(examples) * config.length * per_token > MOST_BYTES:
            return
        parts = []
        for start in range(0, len(examples), BATCH):
            part = self.ask(examples[start : start + BATCH])
            parts.append(Answer(part.logits, tuple(each.bfloat16() for each in part.hidden)))
            report(min(start + BATCH, len(examples)), len(examples), {})
        self.logits = torch.cat([part.logits for part in parts])
        self.hidden = [torch.cat(layer) for layer in zip(*(part.hidden for part in parts), strict=True)]
        self.place = {int(example): place for place, example in enumerate(examples)}

    def ask(self, examples: NDArray[np.int64]) -> Answer:
        """Score examples now."""
        with torch.no_grad():
            return answer(self.reference, self.draws.inputs(examples), self.layers)

    def __call__(self, examples: NDArray[np.int64]) -> Answer:
        """What the reference says of these examples, remembered or scored now."""
        if not self.place:
            return self.ask(examples)
        places = torch.tensor([self.place[int(example)] for example in examples])
        return Answer(self.logits[places], tuple(layer[places].float() for layer in self.hidden))

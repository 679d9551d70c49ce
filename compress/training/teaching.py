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
from compress.models.guided import guidance_of
from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.examples import Examples, examples_of
from compress.models.transformer.model import TokenTransformer
from compress.training.loop import OnProgress
from export.runtime.choosing import lead
from export.runtime.sampling import Sampler

BATCH = 32
MOST_BYTES = 2**29  # what is remembered at most; beyond it the reference is asked again at every step
LARGE_PRIME = 1_000_003  # keeps the steps of one seed apart from those of the next
MATCHED_LAYERS = 4  # hidden states compared at most, evenly spaced, the last layer always


@dataclass(frozen=True)
class Answer:
    """Logits (B, T, V) and hidden states, each (B, T, D)."""

    logits: Tensor
    hidden: tuple[Tensor, ...]

    def take(self, rows: slice) -> Answer:
        """The answer to some of the examples."""
        return Answer(self.logits[rows], tuple(layer[rows] for layer in self.hidden))

    def followed_by(self, other: Answer) -> Answer:
        """The answer to these examples and to others behind them."""
        hidden = (torch.cat(pair) for pair in zip(self.hidden, other.hidden, strict=True))
        return Answer(torch.cat([self.logits, other.logits]), tuple(hidden))

    def float(self) -> Answer:
        """The same in float32, whatever it was computed in."""
        return Answer(self.logits.float(), tuple(layer.float() for layer in self.hidden))


def matched_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """Which outputs of the student's and the teacher's layers are compared, by uniform depth; 0 is the embedding."""
    own = sorted({-(-student * part // MATCHED_LAYERS) for part in range(1, MATCHED_LAYERS + 1)})
    return [(layer, round(layer * teacher / student)) for layer in own]


def answer(transformer: TokenTransformer, batch: Examples, layers: Sequence[int]) -> Answer:
    """What a transformer says of examples, with the hidden states of these layers."""
    x, around = transformer.prepare(*batch.tensors())
    streams = list(transformer.layer_outputs(x, around))
    hidden = (transformer.unrotated(streams[layer]) for layer in layers)
    return Answer(transformer.predictions(streams[-1], around), tuple(hidden))


def guided_answer(
    reference: TokenTransformer, batch: Examples, layers: Sequence[int], sampler: Sampler | None
) -> Answer:
    """What the reference says of examples, its logits after the guidance of a sampler where there is one."""
    with torch.no_grad():
        said = answer(reference, batch, layers)
        if sampler is None:
            return said
        shape = reference.config.shape
        null = answer(reference, batch.unconditional(shape), []).logits
        scales = torch.from_numpy(guidance_of(sampler, shape, batch.scored))[..., None]  # (B, T, 1)
        return Answer(lead(said.logits, null, scales), said.hidden)


def hidden_loss(teacher: Answer, student: Answer, sizes: Sequence[Tensor]) -> Tensor:
    """Mean over compared layers of the squared error relative to the size of the layer's states, a mean square."""
    compared = zip(teacher.hidden, student.hidden, sizes, strict=True)
    return torch.stack([functional.mse_loss(own, wanted) / size for wanted, own, size in compared]).mean()


@dataclass(frozen=True)
class Draws:
    """Which examples each step sees, from (seed, step) alone."""

    pictures: TokenSet
    config: TransformerConfig
    batch: int
    null_share: float
    seed: int

    def step(self, step: int) -> NDArray[np.int64]:
        """Examples (B,): the picture's row, plus the number of pictures where its class is withheld."""
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, step]))
        count = len(self.pictures)
        rows = generator.choice(count, size=self.batch, replace=self.batch > count)
        return rows + count * (generator.random(self.batch) < self.null_share)

    @property
    def recurring(self) -> bool:
        """Whether an example is the same whenever it is drawn; masked models are asked something new each time."""
        return not self.config.drawing.masks

    def examples_at(self, chosen: NDArray[np.int64], step: int) -> Examples:
        """What a transformer reads of these examples (B,) at a step."""
        pictures, withheld = self.pictures.take(chosen % len(self.pictures)), chosen >= len(self.pictures)
        return self.asked(pictures, withheld, self.seed if self.recurring else self.seed * LARGE_PRIME + step)

    def others(self, pictures: TokenSet, step: int) -> Examples:
        """Examples of other pictures (B,) at a step, as many without their class."""
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 4, step]))
        withheld = generator.random(len(pictures)) < self.null_share
        return self.asked(pictures, withheld, int(generator.integers(2**63)))

    def asked(self, pictures: TokenSet, withheld: NDArray[np.bool_], seed: int) -> Examples:
        """What a transformer reads of pictures (B,), the class withheld (B,) from some."""
        labels = np.where(withheld, self.config.null_class, pictures.labels)
        return examples_of(self.config.shape, pictures.tokens, labels, seed, pictures.features)


def answer_bytes(config: TransformerConfig, layers: int) -> int:
    """What remembering the answer to one example takes: its logits in fp32, the states of so many layers in bf16."""
    return config.length * (4 * config.predicted + 2 * config.width * layers)


class Teacher:
    """The reference, asked once for every example where memory allows; with a sampler, after its guidance."""

    def __init__(
        self, reference: TokenTransformer, draws: Draws, layers: Sequence[int], sampler: Sampler | None = None
    ) -> None:
        self.reference, self.draws, self.layers, self.sampler = reference, draws, layers, sampler
        self.place: dict[int, int] = {}
        self.logits = torch.empty(0)
        self.hidden: list[Tensor] = []

    def prepare(self, steps: int, report: OnProgress, rows: slice = slice(None)) -> None:
        """Score every example of the first `steps` steps, unless none recur or they take more than MOST_BYTES.

        Of several processes each scores those that it will be asked for, which are these rows of every step.
        """
        if not self.draws.recurring or not self.draws.batch:
            return
        drawn = np.concatenate([self.draws.step(step) for step in range(steps)])
        if len(np.unique(drawn)) * answer_bytes(self.reference.config, len(self.layers)) > MOST_BYTES:
            return
        examples = np.unique(drawn.reshape(steps, -1)[:, rows])
        if not len(examples):
            return
        parts = []
        for start in range(0, len(examples), BATCH):
            part = self.ask(self.draws.examples_at(examples[start : start + BATCH], 0))
            parts.append(Answer(part.logits, tuple(each.bfloat16() for each in part.hidden)))
            report(min(start + BATCH, len(examples)), len(examples), {})
        self.logits = torch.cat([part.logits for part in parts])
        self.hidden = [torch.cat(layer) for layer in zip(*(part.hidden for part in parts), strict=True)]
        self.place = {int(example): place for place, example in enumerate(examples)}

    def ask(self, batch: Examples) -> Answer:
        """Score examples now."""
        return guided_answer(self.reference, batch, self.layers, self.sampler)

    def __call__(self, examples: NDArray[np.int64], batch: Examples) -> Answer:
        """What the reference says of the examples of these numbers (B,), remembered or scored now."""
        if not self.place:
            return self.ask(batch)
        places = torch.tensor([self.place[int(example)] for example in examples])
        return Answer(self.logits[places], tuple(layer[places].float() for layer in self.hidden))

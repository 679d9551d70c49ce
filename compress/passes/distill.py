"""The reference teaches the model: its softened predictions and hidden states, on training pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from calibration.tokens import TokenSet
from compress.core.settings import MOST_BATCH, MOST_LEARNING_RATE, MOST_STEPS, MOST_WEIGHT, setting
from compress.measure.speed.environment import processor
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.straight_through import settled, trainable
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.same_task import check_same_task
from compress.training.divergence import Divergence, Kind
from compress.training.lesson import Lesson
from compress.training.loop import Schedule, fit
from compress.training.on_policy import OwnPictures
from compress.training.teaching import (
    BATCH,
    MOST_BYTES,
    Draws,
    Teacher,
    answer_bytes,
    guided_answer,
    matched_layers,
)
from compress.training.world import ALONE, World
from export.runtime.sampling import HIGHEST, Sampler

REHEARSED_STEPS = 2
CHECKPOINT = "distill.pt"
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions of x86 and ARM that multiply it


@dataclass(frozen=True, kw_only=True)
class DistillNotes(Notes):
    """How far teaching came."""

    steps: int = setting(doc="optimizer steps that were taken")
    validation_kl_before: float = setting(doc="KL from the reference on the validation pictures, nats per token")
    validation_kl_after: float = setting(doc="and after teaching")
    compared_layers: tuple[tuple[int, int], ...] = setting(doc="layers whose hidden states were compared: ours, theirs")
    kept: str | None = setting(None, doc="why the input was kept, where it was")


@dataclass(frozen=True)
class Distill(TorchPass):
    """The reference teaches the model its predictions and hidden states.

    Loss: temperature^2 times the `divergence` of the softened distributions (`compress.training.divergence`), plus
    `hidden` times the squared error of hidden states relative to their mean square, up to four layers compared at equal
    depth. Trains on the training pictures, and where asked on some that the model draws (`on_policy`); stops early on
    the KL of the validation pictures, which no gradient sees. A quantized model is trained through its rounding
    (straight-through), with its scales (LSQ, arXiv 1902.08153) or without, and stays in its number formats.

    With `guidance: absorb` the model learns what guidance makes of the reference's two rows (classifier-free guidance,
    arXiv 2207.12598; distilled as in arXiv 2210.03142), and its sampler says so; guidance-free training (arXiv
    2501.15420) and condition contrastive alignment (arXiv 2410.09347) reach one row without a guided teacher. It
    learns logits alone, as two rows have no hidden states in common. The scale is fixed: a range of scales needs an
    input for the scale, which no config, graph or engine here has.
    """

    trains: ClassVar[bool] = True

    steps: int = setting(doc="optimizer steps at most", low=1, high=MOST_STEPS)
    batch: int = setting(32, doc="pictures of a step", low=1, high=MOST_BATCH)
    temperature: float = setting(2.0, doc="softens both distributions", low=0.1, high=100)
    divergence: Kind = setting(
        "forward", doc="KL(reference || model), KL(model || reference), or Jensen-Shannon's between them"
    )
    mixing: float = setting(0.5, doc="the reference's weight in Jensen-Shannon's mixture", low=0.01, high=0.99)
    hidden: float = setting(1.0, doc="weight of the hidden-state loss; 0 turns it off", low=0, high=MOST_WEIGHT)
    learning_rate: float = setting(5e-4, doc="peak of the cosine schedule", low=0, high=MOST_LEARNING_RATE)
    warmup: int = setting(20, doc="steps of linear warm-up", low=0, high=MOST_STEPS)
    null_share: float = setting(0.1, doc="share of pictures taught without their class, for guidance", low=0, high=1)
    validate_every: int = setting(25, doc="steps between validations", low=1, high=MOST_STEPS)
    patience: int = setting(4, doc="validations without a better one before it stops; 0: never", low=0, high=MOST_STEPS)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", doc="what products are computed in while training; bfloat16 needs a processor with its instructions"
    )
    scales: Literal["learned", "fixed"] = setting(
        "learned", doc="of a quantized model: scales of weights and of static activations are trained too, or stay"
    )
    accumulate: int = setting(
        1, doc="parts that a step's batch is taken in, one after the other, for less memory", low=1, high=MOST_BATCH
    )

    on_policy: float = setting(0.0, doc="share of a batch that are pictures which the model itself drew", low=0, high=1)
    redraw: int = setting(10, doc="steps until it draws others, a batch of them", low=1, high=MOST_STEPS)
    guidance: Literal["outside", "absorb"] = setting(
        "outside", doc="absorb: the model learns the guided distribution of the reference, so that one row draws it"
    )
    guidance_scale: float = setting(
        0.0, doc="the scale that it learns; 0: the one that the model ships with", low=0, high=HIGHEST
    )

    def validate(self) -> None:
        """Refuse more parts than a batch has pictures, and a scale of guidance that nothing learns."""
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate {self.accumulate}: a batch of {self.batch} has no more parts than pictures; use at most "
                f"{self.batch}"
            )
        if self.guidance_scale and self.guidance == "outside":
            raise ValueError(
                f"guidance_scale {self.guidance_scale:g} with guidance outside: only a guidance that is learned has a "
                "scale here; use guidance: absorb"
            )
        if self.guidance_scale == 1:
            raise ValueError("guidance_scale 1: that is no guidance; use another scale, or 0 for the model's own")

    def check_processes(self, processes: int) -> None:
        """Refuse so many processes as cannot have equally many pictures of a batch."""
        World(size=processes).check(self.batch, "batch")

    def requires(self, model: ImageModel) -> None:
        """Refuse bfloat16 on a processor that would emulate it, and guidance that cannot be absorbed.

        Raises:
            PassError: the processor has none of the instructions, or the model nothing to be guided by.
        """
        self.learned(model)
        if self.precision == "bfloat16" and not set(BFLOAT16) & processor()[1]:
            raise PassError(
                f"precision bfloat16: this processor has none of {', '.join(BFLOAT16)}, so float32 is faster; use "
                "precision float32"
            )

    def learned(self, model: ImageModel) -> Sampler | None:
        """The sampler whose guidance the model learns, or has inside already; None where it learns none.

        Raises:
            PassError: there is no guidance to learn.
        """
        sampler = model.sampler
        if self.guidance == "outside":
            return sampler if sampler.guidance_inside else None
        if sampler.guidance_inside:
            raise PassError(
                f"guidance: absorb, but guidance {sampler.cfg_scale:g} is inside the model already; use guidance: "
                "outside, which keeps it"
            )
        if not model.shape.classes and model.shape.text is None:
            raise PassError("guidance: absorb, but the model has no classes to be guided by; use guidance: outside")
        sampler = replace(sampler, cfg_scale=self.guidance_scale or sampler.cfg_scale)
        if sampler.cfg_scale == 1:
            raise PassError(
                "guidance: absorb, but the model is sampled without guidance (cfg_scale 1); say a guidance_scale"
            )
        return sampler.with_guidance_inside()

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The taught model; the input itself where teaching did not bring it nearer to the reference.

        Raises:
            PassError: no pictures to train on or to stop by, a reference of another shape, or training diverged.
        """
        reference = context.reference.transformer
        student = trainable(model.transformer, learn_scales=self.scales == "learned")
        check_same_task(reference, student)
        training, validation = context.tokens.part("train"), context.tokens.part("validation")
        for part, name in ((training, "train"), (validation, "validation")):
            if not len(part):
                raise PassError(f"the tokens have no {name} pictures; split them with a share for {name}")
        config, world = student.config, context.world
        sampler = self.learned(model)
        # Two rows have no hidden states in common, and neither have streams of two widths.
        compared = self.hidden and sampler is None and config.width == reference.config.width
        pairs = matched_layers(len(config.layers), len(reference.config.layers)) if compared else []
        own_count = round(self.on_policy * self.batch)
        draws = Draws(training, config, self.batch - own_count, self.null_share, context.seed)
        teacher = Teacher(reference, draws, [theirs for _, theirs in pairs], sampler)
        distance = Distance(reference, validation, sampler, world)
        own = OwnPictures(
            lambda: settled(student),
            sampler or model.sampler,
            training,
            count=self.batch,
            every=self.redraw,
            seed=context.seed,
            world=world,
        )
        lesson = Lesson(
            student,
            teacher,
            draws,
            Divergence(self.divergence, self.temperature, self.mixing),
            own_layers=[own for own, _ in pairs],
            hidden=self.hidden,
            parts=self.accumulate,
            precision=self.precision,
            own=own if own_count else None,
            own_count=own_count,
            world=world,
        )
        teacher.prepare(self.steps, context.report, lesson.training_rows)
        before = distance(student)
        log = fit(
            student,
            lesson,
            Schedule(
                steps=self.steps,
                learning_rate=self.learning_rate,
                warmup=min(self.warmup, self.steps),
                validate_every=self.validate_every,
                patience=self.patience,
            ),
            seed=context.seed,
            validate=distance,
            checkpoint=context.workspace / CHECKPOINT,
            report=context.report,
            state_of_loss=own,
            world=world,
        )
        after = distance(student)
        if not after < float("inf"):
            raise PassError(f"training diverged (KL {after}); use a learning_rate below {self.learning_rate:g}")
        notes = DistillNotes(
            steps=int(log[-1]["step"]),
            validation_kl_before=round(before, 5),
            validation_kl_after=round(after, 5),
            compared_layers=tuple(pairs),
        )
        if after >= before:
            return Outcome(model, replace(notes, kept="the input; teaching did not bring it nearer"))
        taught = model.with_transformer(settled(student))
        if sampler is None or model.sampler.guidance_inside:
            return Outcome(taught, notes)
        return Outcome(replace(taught, sampler=sampler), replace(notes, guidance=sampler.cfg_scale))

    def rehearsal(self) -> tuple[Self, float]:
        """Two steps."""
        steps = min(self.steps, REHEARSED_STEPS)
        return replace(self, steps=steps), self.steps / steps

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """What the teacher said of the training pictures, with and without their class, and of the validation's."""
        config = reference.transformer.config
        pairs = matched_layers(len(config.layers), len(config.layers)) if self.hidden else []
        training = min(
            self.steps * (self.batch - round(self.on_policy * self.batch)),
            (1 + (self.null_share > 0)) * len(tokens.part("train")),
        )
        taught = answer_bytes(config, len(pairs)) * training
        validation = 4 * config.predicted * config.length * len(tokens.part("validation"))
        return (taught if taught <= MOST_BYTES and not config.drawing.masks else 0) + validation


class Distance:
    """KL(reference || model) on pictures, nats per token; the reference is asked once, after a sampler's guidance.

    Of several processes each asks of a share of the pictures, and all know the whole.
    """

    def __init__(
        self, reference: TokenTransformer, pictures: TokenSet, sampler: Sampler | None = None, world: World = ALONE
    ) -> None:
        self.world, self.count = world, len(pictures)
        self.examples = world.dealt(list(examples(reference.config.shape, pictures).chunks(BATCH)))
        self.wanted = [guided_answer(reference, batch, [], sampler).logits for batch in self.examples]

    def __call__(self, model: nn.Module) -> float:
        """The distance of a model."""
        with torch.no_grad():
            parts = [
                Divergence()(wanted, model(*batch.tensors()), batch.scored).item() * len(batch)
                for wanted, batch in zip(self.wanted, self.examples, strict=True)
            ]
        return self.world.sum_of(sum(parts)) / self.count

"""Rotate what products read, so that no single input is much larger than the others; the model computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from compress.core.settings import setting
from compress.models.image_model import ImageModel
from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.embedding import quantized_embedding
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.pruning import check_float
from compress.passes.shared.rotations import (
    down_obstacle,
    prepared,
    stream_obstacle,
    turn_stream,
    turn_units,
    turn_values,
)

SEED = 1  # of all rotations; which of them it is hardly matters
BLOCKS = (32, 16)  # for ``auto``, best first: 64 wins no more, and takes more time


@dataclass(frozen=True, kw_only=True)
class RotateNotes(Notes):
    """What was rotated, and why not the rest."""

    rotated: tuple[str, ...] = setting(doc="what was rotated: stream, values, down")
    left: dict[str, str] = setting(doc="what was left, and why")
    block: int | None = setting(None, doc="units of a block in front of ffn.down")
    untied_bytes: int | None = setting(None, doc="bytes of the head, which was tied to the table of embeddings before")


@dataclass(frozen=True)
class Plan:
    """What is rotated of a model: the stream, the values, and units in blocks of so many (0: not); why not the rest."""

    stream: bool
    values: bool
    down: int
    left: dict[str, str]


@dataclass(frozen=True)
class Rotate(TorchPass):
    """Hadamard rotations (QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406) that are undone where they are read.

    What is large in one channel becomes a little in all, so that one scale for all channels is finer. `stream` rotates
    the residual stream: the gains of norms go into the layers behind them, and all that writes into the stream or reads
    it is multiplied. `values` rotates each head's values and undoes it in the output layer. `down` rotates the units
    that ffn.down reads, which no weights can do: an activation stands in front. So the model gets a small product in
    front of ffn.down, in blocks of so many units; ``auto`` takes 32, or 16 where only those fill all layers.

    The stream cannot be rotated where something acts on its channels one by one: modulation (AdaLN), norms behind the
    sums (post-norm) and behind the embeddings. A tied head becomes a matrix of its own.
    """

    stream: Literal["auto", True, False] = setting(False, doc="rotate the residual stream; auto: where it can be")
    values: bool = setting(False, doc="rotate the values of each head")
    down: Literal["auto", "none", 16, 32, 64, 128] = setting(
        "auto", doc="rotate what ffn.down reads, in blocks of so many units"
    )

    exact: ClassVar[bool] = True
    uses_tokens: ClassVar[bool] = False

    def validate(self) -> None:
        """Refuse to do nothing."""
        if self.stream is False and not self.values and self.down == "none":
            raise ValueError("stream false, values false and down none: nothing is left to rotate")

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and one that has nothing of what is asked for."""
        check_float(model, self.name)
        if quantized_embedding(model.transformer) is not None:
            raise PassError(f"the table of embeddings is quantized; put {self.name} before quantize")
        self.plan(model.transformer.config)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Units of a block in front of ffn.down that are tried, best first."""
        if self.down == "none":
            return ()
        return BLOCKS if self.down == "auto" else (self.down,)

    def plan(self, config: TransformerConfig) -> Plan:
        """What is rotated of such a model.

        Raises:
            PassError: what is asked for cannot be, or nothing can.
        """
        stream, left = self.stream is not False, dict[str, str]()
        if stream and (reason := stream_obstacle(config)):
            if self.stream is True:
                raise PassError(f"stream: true, but {reason}; use stream: auto or false")
            stream, left["stream"] = False, reason
        reasons = {block: down_obstacle(config, block) for block in self.blocks}
        down = next((block for block, reason in reasons.items() if reason is None), 0)
        if not down and (reason := next(reversed(reasons.values()), None)):
            if self.down != "auto":
                raise PassError(f"down: {self.down}, but {reason}; use down: auto or none")
            left["down"] = reason
        if not (stream or self.values or down):
            raise PassError(f"nothing can be rotated: {', and '.join(left.values())}")
        return Plan(stream, self.values, down, left)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The rotated model."""
        before = model.transformer.config
        plan = self.plan(before)
        made = prepared(model.transformer, stream=SEED if plan.stream else 0, down=plan.down)
        if plan.stream:
            turn_stream(made)
        if plan.values:
            turn_values(made, SEED)
        if plan.down:
            turn_units(made)
        untied = before.tied_head and not made.config.tied_head
        notes = RotateNotes(
            rotated=tuple(name for name in ("stream", "values", "down") if getattr(plan, name)),
            left=plan.left,
            block=plan.down or None,
            untied_bytes=4 * made.head.weight.numel() if untied else None,
        )
        return Outcome(model.with_transformer(made), notes)

"""Bring the residual stream of a changed model back to the reference's, block by block, by least squares.

Letters: B pictures of a batch, S positions, D width, K inputs of a linear layer.

For each block in order, each linear layer that writes into the stream is solved again, so that the model's stream
behind it comes nearest to the reference's at the same depth. What it reads is what the changed model really has there:
the model's streams go through the blocks that are repaired already, the reference's through its own. Where layers are
missing behind a block, its last writer makes up for them too: it is drawn to the stream in front of the next layer that
both have.

Least squares behind structured pruning: ThiNet (arXiv 1707.06342), He et al. 2017 (arXiv 1707.06168); towards the
original model's activations from the compressed model's inputs as in ZipLM (arXiv 2302.04089) and GPTQ's sequential
order (arXiv 2210.17323).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from calibration.tokens import TokenSet
from compress.core.settings import setting
from compress.models.transformer.blocks import BlockContext
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import replace_module
from compress.passes import Context, PassError
from compress.passes.shared.blockwise import Streams, stream_bytes
from compress.passes.shared.depths import depths
from compress.passes.shared.least_squares import Gated, Rows, Solution, SolveError, solve
from compress.passes.shared.same_task import check_same_task
from compress.passes.shared.writers import Writer, gates, read, watched, writers
from compress.training.loop import OnProgress

RIDGE = 0.03  # from 0.001 on more of it costs little drift, and less of it makes weights that int8 cannot hold
REPAIR = "then solve what writes into the stream again by least squares, as reconstruct does"


@dataclass(frozen=True, kw_only=True)
class RepairNotes:
    """What a repair won, on pictures that it was not solved on where there are any."""

    stream_error_before: float = setting(doc="||model - reference|| / ||reference|| of the last stream, before")
    stream_error_after: float = setting(doc="and after")
    layers: int = setting(doc="linear layers that were solved")
    quantized: int = setting(0, doc="linear layers that were left, because they are quantized")
    damped: tuple[str, ...] = setting((), doc="layers whose equations were singular, and got a larger ridge")
    underdetermined: str | None = setting(None, doc="the layer with the fewest positions for its inputs, if too few")
    kept: str | None = setting(None, doc="why the weights were left as they were, where they were")


@dataclass
class Work:
    """What a repair has done so far: the layers that it replaced, as they were, and what there is to say of each."""

    total: int
    report: OnProgress
    originals: dict[str, nn.Linear] = field(default_factory=dict)
    quantized: int = 0
    damped: list[str] = field(default_factory=list)
    shortest: tuple[float, str] | None = None  # positions for each input, and the layer, where there were too few

    def note(self, name: str, original: nn.Linear, solution: Solution) -> None:
        """Remember a layer that was solved on pictures."""
        self.done(name, original, solution)
        inputs = solution.change.shape[1]
        share = solution.rows / inputs
        if share < 1 and (self.shortest is None or share < self.shortest[0]):
            self.shortest = share, f"{name}: {solution.rows} positions for {inputs} inputs; calibrate on more pictures"

    def done(self, name: str, original: nn.Linear, solution: Solution) -> None:
        """Remember a layer that was solved."""
        self.originals[name] = original
        if solution.damped:
            self.damped.append(name)
        self.report(len(self.originals) + self.quantized, self.total, {})


def repair(
    transformer: TokenTransformer, reference: TokenTransformer, layers: Sequence[int], context: Context, ridge: float
) -> RepairNotes:
    """Put repaired linear layers into a transformer that is nobody else's; its other modules stay.

    `layers` are those of the reference that the transformer's are. Where the last stream is no nearer to the
    reference's behind it, on the validation pictures if there are any, the layers are put back.

    Raises:
        PassError: numbers are not finite (the message names the layer), or only one of the streams is rotated.
    """
    if transformer.config.stream_rotation != reference.config.stream_rotation:
        raise PassError("the stream is rotated, and the reference's is not; put rotate behind what is repaired")
    work = Work(len(written(transformer)), context.report)
    pictures = context.comparison_tokens()
    before = stream_error(transformer, reference, pictures)
    own, theirs = (Streams(each, context.calibration_tokens()) for each in (transformer, reference))
    at = 0  # the reference's layer that its streams stand in front of
    for index, block in enumerate(transformer.blocks):
        *most, last = writers(block)
        while at < layers[index]:
            theirs.advance(reference.blocks[at])
            at += 1
        there = reference.blocks[at]
        for writer in most:
            rebuild(own, f"blocks.{index}", writer, sums(theirs, there, writer), ridge, work)
        until = layers[index + 1] if index + 1 < len(layers) else len(reference.blocks)
        if last.seen_by is None:
            while at < until:
                theirs.advance(reference.blocks[at])
                at += 1
            rebuild(own, f"blocks.{index}", last, (x for x, _ in theirs.parts), ridge, work)
        else:
            rebuild(own, f"blocks.{index}", last, sums(theirs, there, last), ridge, work)
        own.advance(block)
    del own, theirs  # as much as those that are compared now
    return notes_of(work, transformer, before, stream_error(transformer, reference, pictures))


def notes_of(work: Work, transformer: TokenTransformer, before: float, after: float) -> RepairNotes:
    """What there is to say of the work on a transformer; where it did not bring the stream nearer, it is undone."""
    kept = None
    if not after < before:
        for name, linear in work.originals.items():
            replace_module(transformer, name, linear)
        after, kept = before, "the weights as they were; the stream came no nearer to the reference's"
    return RepairNotes(
        stream_error_before=round(before, 5),
        stream_error_after=round(after, 5),
        layers=len(work.originals),
        quantized=work.quantized,
        damped=tuple(work.damped),
        underdetermined=work.shortest and work.shortest[1],
        kept=kept,
    )


def repaired(
    pruned: TokenTransformer, before: TokenTransformer, context: Context, kept: Sequence[int] | None = None
) -> RepairNotes:
    """Repair what a pass made of the transformer `before`, of which the layers `kept` are left, all by default.

    Towards the reference; where that has a stream of another width, no channel of which is the model's, towards
    `before`.

    Raises:
        PassError: as `repair` and `depths` do, and for a reference of another shape.
    """
    reference = context.reference.transformer
    check_same_task(reference, pruned)
    if reference.config.width != pruned.config.width:
        reference = before
    found = depths(before, reference)
    return repair(pruned, reference, found if kept is None else [found[index] for index in kept], context, RIDGE)


def written(transformer: TokenTransformer) -> list[nn.Module]:
    """Every layer that writes into the stream."""
    return [block.get_submodule(writer.name) for block in transformer.blocks for writer in writers(block)]


def check_writers(transformer: TokenTransformer) -> None:
    """Refuse a model whose layers that write into the stream are all quantized: they have no weights to solve.

    Raises:
        PassError: says so.
    """
    layers = written(transformer)
    if not any(isinstance(each, nn.Linear) for each in layers):
        raise PassError(f"all {len(layers)} layers that write into the stream are quantized; repair before quantize")


def kept_bytes(reference: TokenTransformer, calibration: int) -> int:
    """Memory of a repair that grows with the pictures: the streams of both models, and the states of a text."""
    return 2 * stream_bytes(reference, calibration)


def sums(streams: Streams, block: nn.Module, writer: Writer) -> Iterator[Tensor]:
    """The streams (B, S, D) of each batch behind a writer."""
    return (behind for _, behind in watched(streams, block, writer))


def rebuild(streams: Streams, at: str, writer: Writer, wanted: Iterator[Tensor], ridge: float, work: Work) -> None:
    """Solve one writer of the block `at`, in front of which the streams stand, towards the wanted streams behind it.

    Raises:
        PassError: numbers are not finite; the message names the layer.
    """
    block, name = streams.transformer.get_submodule(at), f"{at}.{writer.name}"
    linear = block.get_submodule(writer.name)
    if not isinstance(linear, nn.Linear):
        work.quantized += 1
        return
    biased = linear.bias is not None

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor | None, Callable[[Tensor], Tensor]]]:
        """Inputs and gates as rows, the sum behind the layer, and what makes rows of a batch."""
        for (_, around), (given, behind) in zip(streams.parts, watched(streams, block, writer), strict=True):
            pick = picking(around, behind)
            x = pick(given)
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1) if biased else x
            gate = gates(block, streams.transformer.inside(around), writer)
            yield x, behind, None if gate is None else pick(gate.expand_as(behind)), pick

    rows = (
        Rows(x, pick(target - behind), gate) for (x, behind, gate, pick), target in zip(batches(), wanted, strict=True)
    )
    shape = (linear.out_features, linear.in_features + biased)
    try:
        with torch.no_grad():
            solution = solve(
                rows, lambda: (Gated(x, gate) for x, _, gate, _ in batches() if gate is not None), shape, ridge
            )
    except SolveError as error:
        raise PassError(f"{name}: {error}") from error
    replace_module(streams.transformer, name, changed(linear, solution.change))
    work.note(name, linear, solution)


def changed(linear: nn.Linear, change: Tensor) -> nn.Linear:
    """A layer with this change (D, K) of its weights, and behind them of its bias if it has one."""
    made = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, linear.weight.device)
    with torch.no_grad():
        made.weight.copy_(linear.weight.double() + change[:, : linear.in_features])
        if linear.bias is not None:
            made.bias.copy_(linear.bias.double() + change[:, -1])
    return made.train(linear.training)


def picking(around: BlockContext, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes rows of a batch (B, S, ...): those that anything reads of a stream x."""
    positions = read(around, x)
    return lambda each: each.flatten(0, 1) if positions is None else each[positions]


def stream_error(
    transformer: TokenTransformer, reference: TokenTransformer, pictures: TokenSet, channels: Tensor | None = None
) -> float:
    """||x - r|| / ||r|| of a model's last streams x and the reference's r, at all positions that anything reads.

    `channels` (n,) are those of the reference's that the model has, all by default.
    """
    own, theirs = Streams(transformer, pictures), Streams(reference, pictures)
    for streams in (own, theirs):
        for block in streams.transformer.blocks:
            streams.advance(block)
    noise = signal = 0.0
    for (x, around), (wanted, _) in zip(own.parts, theirs.parts, strict=True):
        pick = picking(around, x)
        wanted = wanted if channels is None else wanted[..., channels]
        noise += float(pick(x - wanted).double().square().sum())
        signal += float(pick(wanted).double().square().sum())
    return math.sqrt(noise / signal) if signal else 0.0

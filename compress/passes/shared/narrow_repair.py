"""Bring a model with a narrower residual stream back to the wider one's, by least squares, in order of execution.

Letters: B pictures of a batch, S positions, D channels of the wider stream, n those that the narrower one keeps, K
inputs and F outputs of layers, C classes and positions.

The stream's own target is the wider stream at the kept channels: nothing else can be compared with n numbers. What the
other channels told the layers that read the stream is lost, but not what the kept ones know of them. So the readers are
solved too: towards what the wider model's layers give, from what the narrower stream really holds. Writers are solved
as in `repair`, what modulates on every class, and the head on the logits where it is not tied to the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import replace_module
from compress.passes import Context, PassError
from compress.passes.shared.blockwise import Streams
from compress.passes.shared.channels import CONDITIONED
from compress.passes.shared.least_squares import Rows, SolveError, solve
from compress.passes.shared.repair import (
    RIDGE,
    RepairNotes,
    Work,
    changed,
    notes_of,
    picking,
    rebuild,
    stream_error,
    sums,
    written,
)
from compress.passes.shared.writers import Writer, writers

READ_BEFORE = {  # what reads the stream in front of a writer of a block, all from one norm
    "attention.output": ("attention.query", "attention.key", "attention.value"),
    "text.output": ("text.query",),
    "ffn.down": ("ffn.gate", "ffn.up"),
}
CONDITIONS = 8192  # classes, or pairs of a class and a position, that modulation is solved on at most


def repair_narrow(narrow: TokenTransformer, wide: TokenTransformer, kept: Tensor, context: Context) -> RepairNotes:
    """Put repaired linear layers into a transformer that has the channels `kept` (n,) of another's stream.

    Where the last stream is no nearer to the wider one's at these channels behind it, the layers are put back.

    Raises:
        PassError: numbers are not finite; the message names the layer.
    """
    modulations, ends = conditioned(narrow), last_readers(narrow)
    inner = [name for block in narrow.blocks for writer in writers(block) for name in read_before(block, writer)]
    work = Work(len(modulations) + len(written(narrow)) + len(inner) + len(ends), context.report)
    pictures = context.comparison_tokens()
    before = stream_error(narrow, wide, pictures, kept)
    for name in modulations:
        remodulate(narrow, wide, name, kept, work)
    own, theirs = (Streams(each, context.calibration_tokens()) for each in (narrow, wide))
    for index, (block, there) in enumerate(zip(narrow.blocks, wide.blocks, strict=True)):
        at = f"blocks.{index}"
        for writer in writers(block):
            refit(own, theirs, [f"{at}.{name}" for name in read_before(block, writer)], at, work)
            rebuild(own, at, writer, (behind[..., kept] for behind in sums(theirs, there, writer)), RIDGE, work)
        own.advance(block)
        theirs.advance(there)
    if ends:
        refit(own, theirs, ends, None, work)
    del own, theirs  # as much as those that are compared now
    return notes_of(work, narrow, before, stream_error(narrow, wide, pictures, kept))


def conditioned(transformer: TokenTransformer) -> list[str]:
    """The linear layers that make modulation of a class's vector."""
    return [name for name, _ in transformer.named_modules() if re.fullmatch(CONDITIONED, f"{name}.weight")]


def read_before(block: nn.Module, writer: Writer) -> list[str]:
    """The linear layers of a block that read the stream in front of one of its writers."""
    present = dict(block.named_modules())
    return [name for name in READ_BEFORE[writer.name] if name in present]


def last_readers(transformer: TokenTransformer) -> list[str]:
    """The linear layer that reads the last norm, unless it is the table of embeddings."""
    if transformer.config.uvit:
        return ["tail.enter"]
    return [] if transformer.config.tied_head else ["head"]


def refit(own: Streams, theirs: Streams, names: Sequence[str], at: str | None, work: Work) -> None:
    """Solve layers that read the same, together, towards what the wider model's layers of these names give.

    They are in the block `at`, in front of which the streams stand, or behind the last.

    Raises:
        PassError: numbers are not finite; the message names the layer.
    """
    narrow = own.transformer
    linears = [linear_of(narrow, name) for name in names]
    biased = linears[0].bias is not None

    def rows() -> Iterator[Rows]:
        """Inputs as rows, and what is missing behind all layers side by side."""
        pairs = zip(observed(own, names, at), observed(theirs, names, at), strict=True)
        for (_, around), ((given, made), (_, wanted)) in zip(own.parts, pairs, strict=True):
            pick = partial(torch.flatten, end_dim=-2) if at is None else picking(around, given)
            yield Rows(with_ones(pick(given), biased), pick(wanted - made))

    counts = [linear.out_features for linear in linears]
    try:
        with torch.no_grad():
            solution = solve(rows(), lambda: iter(()), (sum(counts), linears[0].in_features + biased), RIDGE)
    except SolveError as error:
        raise PassError(f"{names[0]}: {error}") from error
    for name, linear, change in zip(names, linears, solution.change.split(counts), strict=True):
        replace_module(narrow, name, changed(linear, change))
        work.note(name, linear, solution)


def remodulate(narrow: TokenTransformer, wide: TokenTransformer, name: str, kept: Tensor, work: Work) -> None:
    """Solve a layer that makes modulation, towards that of the wider model at the kept channels, for every class."""
    linear, there = linear_of(narrow, name), linear_of(wide, name)
    with torch.no_grad():
        given = with_ones(functional.silu(conditions(narrow)), ones=True)  # (C, K + 1)
        wanted = there(functional.silu(conditions(wide))).unflatten(-1, (-1, wide.config.width))  # (C, parts, D)
        missing = wanted[..., kept].flatten(1) - linear(given[:, :-1])
        shape = (linear.out_features, linear.in_features + 1)
        solution = solve(iter([Rows(given, missing)]), lambda: iter(()), shape, RIDGE)
    replace_module(narrow, name, changed(linear, solution.change))
    work.done(name, linear, solution)


def conditions(transformer: TokenTransformer) -> Tensor:
    """The vectors (C, D) of all classes and of none, at all positions where these count; some of them if too many."""
    config = transformer.config
    positions = config.reach if config.modulation == "class-position" else 1
    pairs = (config.classes + 1) * positions
    chosen = torch.linspace(0, pairs - 1, min(pairs, CONDITIONS), dtype=torch.float64).long()
    labels = torch.div(chosen, positions, rounding_mode="floor")
    vectors = transformer.class_vector(labels)
    return vectors if positions == 1 else vectors + transformer.moment(chosen % positions)


def observed(streams: Streams, names: Sequence[str], at: str | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each batch what goes into layers that read the same (B, S, K), and what they give side by side (B, S, F)."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda module, given, made: seen.__setitem__(name, (given[0], made))

    hooks = [streams.transformer.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        for _ in streams.logits() if at is None else streams.through(streams.transformer.get_submodule(at)):
            yield seen[names[0]][0], torch.cat([seen[name][1] for name in names], dim=-1)
    finally:
        for hook in hooks:
            hook.remove()


def linear_of(transformer: TokenTransformer, name: str) -> nn.Linear:
    """A linear layer in float."""
    linear = transformer.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear


def with_ones(x: Tensor, ones: bool) -> Tensor:
    """Rows (n, K) with a 1 behind each, which a bias multiplies, if there is one."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1) if ones else x

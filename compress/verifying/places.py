"""Where two models may part outside of the blocks that a few pictures run through.

A few pictures do not hold every class and token; what they hold says nothing of the cache, the sampler and the image
codec. So each of these is looked at by itself, and every place says how much of it was looked at.

Letters: N pictures, S positions, T tokens of a picture, V logits of a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.layers import HIGHEST_ERROR, relative_error
from compress.measure.drift.one_file import OneFile
from compress.measure.drift.sampler import SamplerCheck, differing
from compress.measure.drift.states import States, first_states, is_engine, last_states, stepwise_states
from compress.measure.pictures.encoding import Encoding
from compress.measure.pictures.shown import Shown
from compress.measure.subject import Given, Side, Subject, beside
from compress.models.candidate import pixels_of
from compress.models.transformer.examples import Examples
from export.runtime.counted import counted
from export.runtime.errors import UnsoundLogitsError

if TYPE_CHECKING:
    from compress.models.candidate import Candidate
    from export.runtime.shape import Shape

NOISE = 1e-4  # relative; fp32 sums in another order stay below 1e-5
GROWTH = 10.0
MOST_POSITIONS = 2**16  # of examples that hold every class, or every token
SCALED_COST = 16  # a next-scale graph runs as a whole, scale by scale
AT_ONCE = 2**13  # of these positions, whose streams are held together
MOST_NAMED = 10
PICTURES = 8
PART_OF_MEAN = 1e-3  # of the mean size of a stream's positions: smaller ones are no scale for an error


@dataclass(frozen=True)
class Place:
    """One place that was looked at."""

    name: str = setting(doc="`classes`, `tokens`, `norm`, `head`, `cache`, `sampler`, `image decoder`, ...")
    looked_at: str = setting(doc="how much of it was looked at")
    error: float = setting(doc="the largest relative error, or the share that differs", low=0)
    departs: str = setting(doc="what departs, `class 3` or the place's own name; empty if nothing does")
    others: tuple[str, ...] = setting((), doc=f"what departs besides; at most {MOST_NAMED} are named")


def first_departure(errors: Sequence[float], growth: float = GROWTH, whole: Sequence[float] = ()) -> int | None:
    """The first place whose error is above the noise and has grown by more than is usual; None if there is none.

    `whole` are errors of the same places that are known already.
    """
    before = 0.0
    for place, error in enumerate(errors):
        known = whole[place] if place < len(whole) else 0.0
        if error > NOISE and error > growth * max(before, known):
            return place
        before = error
    return None


# Every class, every token


def beginnings(reference: Candidate, candidate: Candidate, examples: Examples, pruned: bool) -> Iterator[Place]:
    """Every class and every token at the embedding; classes behind the first block too, where it is the same one."""
    shape = reference.shape
    room = MOST_POSITIONS // SCALED_COST if shape.drawing.scaled else MOST_POSITIONS
    if shape.classes and not shape.text:
        given, names = of_every_class(shape, examples, room)
        errors = differences(reference, candidate, given)[: 1 if pruned else 2]
        found = next((each for each in (partly(error, names) for error in errors) if each), ())
        yield place("classes", f"{len(names)} of {counted(shape.classes + 1, 'class')}", errors[0], found)
    if not shape.drawing.scaled:  # its streams are of sums over scales, not of single tokens
        given, count = of_every_token(shape, examples, room)
        error = differences(reference, candidate, given)[0]
        found = rows_of(error, given.inputs[:, 1:], shape)
        yield place(
            "tokens",
            f"{count} of {counted(shape.vocabulary, 'token')}, {counted(error.shape[1], 'position')}",
            error,
            found,
        )


def place(name: str, looked_at: str, error: NDArray[np.float64], found: Sequence[str]) -> Place:
    """What single rows of an embedding have to say."""
    return Place(name, looked_at, float(error.max()), found[0] if found else "", tuple(found[1:MOST_NAMED]))


def of_every_class(shape: Shape, examples: Examples, room: int) -> tuple[Examples, list[str]]:
    """The same tokens with every class, as many as there is room for; and the classes' names."""
    inputs = examples.inputs[:1]
    if shape.drawing.sequential and not shape.drawing.scaled:
        inputs = inputs[:, :2]
    count = min(shape.classes + 1, max(2, room // inputs.shape[1]))
    classes = np.unique(np.linspace(0, shape.classes, count).round().astype(np.int64))  # the last is the null class
    made = np.repeat(inputs, len(classes), axis=0)
    made[:, 0] = shape.first_class + classes
    targets = np.repeat(examples.targets[:1], len(classes), axis=0)
    names = ["null class" if number == shape.null_class else f"class {number}" for number in classes]
    return Examples(made, targets, np.ones_like(targets, dtype=bool)), names


def of_every_token(shape: Shape, examples: Examples, room: int) -> tuple[Examples, int]:
    """Shuffled tokens so that each occurs, as many as there is room for, behind the first class; and how many occur."""
    length = examples.inputs.shape[1] - 1
    count = min(max(2, -(-shape.vocabulary // length)), max(2, room // (length + 1)))
    generator = np.random.Generator(np.random.Philox(0))
    tokens = generator.permutation(np.resize(np.arange(shape.vocabulary), count * length)).reshape(count, length)
    found = len(np.unique(tokens))
    if shape.drawing.masks:
        tokens = np.concatenate([tokens, np.full((1, length), shape.mask_token)])
    inputs = np.concatenate([np.full((len(tokens), 1), shape.first_class), tokens], axis=1)
    targets = np.resize(examples.targets[:1], (len(tokens), shape.length))
    features = None if examples.features is None else np.repeat(examples.features[:1], len(tokens), axis=0)
    return Examples(inputs, targets, np.ones_like(targets, dtype=bool), features), found


def differences(reference: Candidate, candidate: Candidate, examples: Examples) -> list[NDArray[np.float64]]:
    """Relative errors (N, S) of the streams before and behind the first block, position by position."""
    made: list[list[NDArray[np.float64]]] = [[], []]
    for part in examples.chunks(max(1, AT_ONCE // examples.inputs.shape[1])):
        pairs = zip(first_states(reference, part), first_states(candidate, part), strict=True)
        for found, (theirs, own) in zip(made, pairs, strict=True):
            found.append(by_position(theirs, own))
    return [np.concatenate(each) for each in made]


def by_position(theirs: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float64]:
    """Relative error (N, S) of each position of streams (N, S, D)."""
    size = np.linalg.norm(theirs.astype(np.float64), axis=-1)
    apart = np.linalg.norm(own.astype(np.float64) - theirs, axis=-1)
    found: NDArray[np.float64] = apart / np.maximum(size, PART_OF_MEAN * size.mean() or 1.0)
    return np.nan_to_num(found, nan=HIGHEST_ERROR).clip(max=HIGHEST_ERROR)


def partly(error: NDArray[np.float64], names: list[str]) -> list[str]:
    """Rows (N, S) that depart where not all do; what all of them share is no fault of a row."""
    departs = np.flatnonzero((error > NOISE).any(axis=1))
    return [] if len(departs) == len(names) else [names[row] for row in departs]


def rows_of(error: NDArray[np.float64], tokens: NDArray[np.int64], shape: Shape) -> list[str]:
    """The tokens, or the positions, that account for every departure (N, S); `embedding` where neither does so alone.

    Of the two explanations the one that takes the smaller share of its table is given.
    """
    departs = error > NOISE
    if not departs.any():
        return []
    length = tokens.shape[1]
    explained: list[tuple[float, list[str]]] = []
    columns = np.flatnonzero(departs.any(axis=0))
    if departs[:, columns].all():
        explained.append((len(columns) / departs.shape[1], [f"position {each}" for each in columns]))
    behind = departs.shape[1] - length  # positions before the first token
    if 0 <= behind <= shape.prefix and not departs[:, :behind].any():
        found = np.unique(tokens[departs[:, behind:]])
        if (np.isin(tokens, found) == departs[:, behind:]).all():
            names = ["mask token" if each == shape.mask_token else f"token {each}" for each in found]
            explained.append((len(found) / shape.vocabulary, names))
    share, names = min(explained, default=(1.0, []))
    return names if share < 0.5 else ["embedding"]


# Behind the blocks


def ends(reference: Candidate, candidate: Candidate, examples: Examples, before: float) -> Iterator[Place]:
    """The last norm and the logits, behind a stream of a known error."""
    (norm, logits), (own_norm, own_logits) = (last_states(each, examples) for each in (reference, candidate))
    looked_at = counted(len(examples), "picture")
    if norm is not None and own_norm is not None and norm.shape == own_norm.shape:
        error = relative_error(norm, own_norm)
        yield Place("norm", looked_at, error, "norm" if grown(error, before) else "")
        before = error
    error = relative_error(centred(logits), centred(own_logits))
    yield Place("head", looked_at, error, "head" if grown(error, before) else "")


def grown(error: float, before: float) -> bool:
    """Whether an error was made here."""
    return error > NOISE and error > GROWTH * before


def centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits (N, T, V) less their mean, which changes no prediction."""
    found: NDArray[np.float64] = logits.astype(np.float64)
    found -= found.mean(axis=-1, keepdims=True)
    return found


def cache(
    reference: Candidate, candidate: Candidate, examples: Examples, kept: Sequence[int] | None, whole: Sequence[float]
) -> Iterator[Place]:
    """Streams and logits step by step; the layer whose stream departs first reads or writes a wrong cache.

    `whole` are the errors behind the blocks and of the logits in one call: what departs there is no fault of the cache.
    """
    shape = reference.shape
    if shape.drawing.masks or any(has_no_cache(each) for each in (reference, candidate)):
        return
    theirs, own = stepwise_states(reference, examples), stepwise_states(candidate, examples)
    if kept is not None and len(kept) < len(theirs) - 1:
        theirs = [*(theirs[index] for index in kept), theirs[-1]]
    layers = list(range(len(own) - 1)) if kept is None else list(kept)
    errors = [relative_error(*pair) for pair in zip(theirs[:-1], own[:-1], strict=True)]
    errors.append(relative_error(centred(theirs[-1]), centred(own[-1])))
    found = first_departure(errors, whole=whole)
    name = "" if found is None else f"cache of blocks.{layers[found]}" if found < len(layers) else "cache"
    where = first_position(theirs, own, found)
    looked_at = f"{counted(len(examples), 'picture')}, {counted(theirs[-1].shape[1], 'token')}" + where
    yield Place("cache", looked_at, max(errors), name)


def first_position(theirs: States, own: States, found: int | None) -> str:
    """From which position on a stream departs, in words."""
    if found is None:
        return ""
    columns = np.flatnonzero((by_position(theirs[found], own[found]) > NOISE).any(axis=0))
    return f"; departs from position {columns[0]} on" if len(columns) else ""


def has_no_cache(candidate: Candidate) -> bool:
    """Whether every step of an engine computes the whole picture again."""
    return is_engine(candidate) and candidate.manifest.cache == "none"  # type: ignore[attr-defined]


# Outside of the decode graph


def outside(reference: Candidate, candidate: Candidate, names: tuple[str, str], examples: Examples) -> Iterator[Place]:
    """Sampler, image decoder, single file and image encoder, where the candidate has them."""
    given = Given(reference.shape, reference.picture, examples.take(slice(PICTURES)), 0, samples=PICTURES)
    subject = beside(Side(names[1], given, candidate), Side(names[0], given, reference), candidate.sampler)
    looks: tuple[Callable[[Subject], Place | None], ...] = (sampler, decoder, single_file, encoder)
    yield from (found for look in looks if (found := looked(look, subject)) is not None)


def looked(look: Callable[[Subject], Place | None], subject: Subject) -> Place | None:
    """What a look finds; nothing where logits are NaN, so that nothing can be drawn: a place before these is named."""
    try:
        return look(subject)
    except UnsoundLogitsError:
        return None


def sampler(subject: Subject) -> Place:
    """Settings, and the choices of a graph against those of the sampler outside."""
    if SamplerCheck.applies(subject):
        found = SamplerCheck.run(subject)
        graph = f", {found.tokens} choices of the graph" if found.tokens else ""
        looked_at = f"settings{graph}" + (f"; {found.settings}" if found.settings else "")
        return Place("sampler", looked_at, found.apart, "sampler" if list(found.broken()) else "")
    apart = differing(subject.candidate.model.sampler, subject.reference.model.sampler)
    looked_at = f"settings; {apart}" if apart else "settings"
    return Place("sampler", looked_at, float(bool(apart)), "sampler" if apart else "")


def decoder(subject: Subject) -> Place | None:
    """Pixels against the reference's, and the rounded pictures against these."""
    tokens = subject.given.examples.targets
    both = [pixels_of(side.model) for side in (subject.reference, subject.candidate)]
    if None in both:
        return None
    theirs, own = (np.concatenate([decode(tokens[[row]]) for row in range(len(tokens))]) for decode in both if decode)
    error, shown = relative_error(theirs, own), Shown.run(subject)
    departs = error > NOISE or bool(list(shown.broken()))
    looked_at = f"{counted(len(tokens), 'picture')} and as they are shown"
    return Place("image decoder", looked_at, max(error, shown.unlike_pixels), "image decoder" if departs else "")


def single_file(subject: Subject) -> Place | None:
    """What it draws, against the engine step by step."""
    if not OneFile.applies(subject):
        return None
    found = OneFile.run(subject)
    name = "single file" if list(found.broken()) else ""
    return Place("single file", counted(found.pictures, "picture"), max(found.tokens, found.values), name)


def encoder(subject: Subject) -> Place | None:
    """Tokens of pictures, against the reference's."""
    if not Encoding.applies(subject):
        return None
    found = Encoding.run(subject)
    name = "image encoder" if list(found.broken()) else ""
    return Place("image encoder", counted(found.pictures, "picture"), 1 - found.agreement, name)

"""How far a model drifts from another, where it departs from it, and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.core.listener import Listener
    from compress.models.candidate import Candidate
    from compress.recipe.gates import Gate
    from compress.verifying.bench import BenchRow
    from compress.verifying.bisect import Bisection
    from compress.verifying.comparison import Comparison


def verify(
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    gates: Gate | Mapping[str, Any] | str | Path | None = None,
    *,
    tokens: str | Path = "digits",
    held_out: int | None = None,
    than: str | Path | Candidate | None = None,
    threads: int = 0,
    samples: int | None = None,
    quick: bool = False,
    on: str = "",
    listener: Listener | None = None,
) -> Comparison:
    """How far a candidate's outputs drift from a reference's, on held-out pictures.

    Each is a name, a checkpoint, an engine folder, or what `load` and `load_engine` gave. `tokens` is a source of
    pictures, or ``drawn`` for pictures that the reference draws. `gates` are limits, ``exact`` or ``lossy``, or a file
    of limits. `Comparison.verdict` says whether they hold.
    `samples` are pictures that both draw with the same noise, 32 by default. `quick` scores 32 pictures and draws 4,
    where the numbers do not say otherwise: everything is looked at, with wide intervals.
    With `on` (``local:N``, ``ray``, ``ray://HOST:PORT``) workers draw and score, each with so many `threads`; models
    are then given by name or folder. The result is that of one process with as many threads, bit for bit.

    Raises:
        InputError: one cannot be opened, tokens do not fit, a gate limits what is not measured, or workers failed.
    """
    from compress.recipe.gates import Gate, read_gate
    from compress.verifying.comparison import QUICK_COUPLED, QUICK_PICTURES, compare
    from compress.workers.place import place_of

    place = place_of(on) if on else None
    if quick:
        held_out, samples = held_out or QUICK_PICTURES, samples or QUICK_COUPLED
    if isinstance(gates, (str, Path)):
        from compress.core.strict_yaml import read_yaml
        from compress.recipe.shipped import located_gates

        file = located_gates(gates)
        gates = read_gate(read_yaml(file), f"{file}:")
    limits = gates if gates is None or isinstance(gates, Gate) else read_gate(dict(gates), "gates")
    return compare(
        reference,
        candidate,
        limits,
        str(tokens),
        held_out,
        threads,
        than,
        samples=samples,
        place=place,
        listener=listener,
    )


def bisect(
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    *,
    tokens: str | Path = "digits",
    pictures: int = 8,
    threads: int = 0,
) -> Bisection:
    """The first place whose output departs from the reference's, and inside a layer the first operator.

    Looked at are every class and token at the embedding, each layer, the last norm and the head, the cache, the
    sampler, the image decoder, the single file and the image encoder. Pictures are taken of each class in turn. Compare
    a quantized engine with a sound one of the same form: rounding alone departs from fp32 in the first layer.

    Raises:
        InputError: one cannot be opened, or they cannot be compared.
    """
    from compress.models.candidate import name_of, open_candidate
    from compress.verifying.bisect import bisect as found
    from compress.verifying.comparison import check_alike, given_of

    theirs, own = open_candidate(reference, threads), open_candidate(candidate, threads)
    names = name_of(reference), name_of(candidate)
    check_alike(own, names[1], theirs, names[0])
    given = given_of(theirs, str(tokens), pictures, 0, threads, each_class=True)
    return found(theirs, own, names, given.examples)


def bench(
    engines: Sequence[str | Path | Candidate], *, batch: Sequence[int] = (1, 8), repeats: int = 20, threads: int = 0
) -> list[BenchRow]:
    """Time engines (or models in PyTorch) interleaved in this process; the first is what speedups are against.

    `batch` are the numbers of pictures drawn at once, `repeats` the interleaved rounds, at least 6.

    Raises:
        InputError: one cannot be opened, or a batch does not fit into memory.
    """
    from compress.verifying.bench import bench as timed

    return timed(engines, batch, repeats, threads)

"""Pictures that a model draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.applications.staying import Where
    from compress.bulk.generate import Drawn
    from compress.core.listener import Listener
    from compress.models.candidate import Candidate
    from export.runtime.options import Sampling


def generate(
    model: str | Path | Candidate,
    labels: Sequence[int | str] | NDArray[np.int64],
    *,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) of these classes (N,), drawn with an engine, or a checkpoint in PyTorch.

    Settings of sampling are those of `compress generate` (`cfg_scale`, `temperature`, `top_k`, ...); what is left out
    is the model's own, and what it would ignore is refused. A model of texts takes `features` (N, length, width) and 0
    for each label. `batch` pictures are drawn at once, 0 for as many as memory holds.

    Raises:
        InputError: the model cannot be opened, or does not draw what is asked for.
    """
    from compress.core.settings import InputError
    from compress.models.candidate import open_candidate
    from export.runtime.throughput import draw_pictures

    drawer = open_candidate(model, threads)
    try:
        return draw_pictures(drawer, labels, seed, features=features, batch=batch, **sampling)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def vary(
    model: str | Path | Candidate,
    picture: str | Path | NDArray[np.uint8],
    *,
    keep: float = 0.5,
    where: Where | None = None,
    label: int | str | Sequence[int | str] | None = None,
    count: int = 1,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    blend: int | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Variations (N, H, W, C) of a picture: a share `keep` of its tokens stays, the rest is drawn anew.

    `picture` is a file, or pixels (h, w, 1 or 3), and is cropped and scaled to the model's size. `where` says which
    tokens stay: the ``first`` of the drawing, some ``spread`` over the picture (the default but of next-scale models),
    or ``random`` ones by the seed. What is drawn is of the classes of `label`, as `generate` takes them and with commas
    between names in a text, `count` pictures of each; None draws unconditionally. A model of texts takes `features`
    (n, length, width) instead, `count` pictures of each. The model's decoder draws all of a picture; with `blend` the
    pixels of tokens that stay are pasted back unchanged and fade out over so many pixels. The rest is as of `generate`.

    Raises:
        InputError: the picture cannot be read or become tokens, or the model does not draw what is asked for.
    """
    from compress.applications.asked import picture_of, wish_of
    from compress.applications.vary import vary as drawn
    from compress.models.candidate import open_candidate

    drawer = open_candidate(model, threads)
    wish = wish_of(drawer, label, count, features, seed, batch, sampling)
    return drawn(drawer, picture_of(picture), wish, keep, where, blend)


def outpaint(
    model: str | Path | Candidate,
    picture: str | Path | NDArray[np.uint8],
    extend: Mapping[str, float],
    *,
    overlap: float = 0.5,
    own_size: bool = False,
    label: int | str | Sequence[int | str] | None = None,
    count: int = 1,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    blend: int | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) that hold a picture and go on beyond its edges, window by window.

    `extend` has shares of the picture's width or height: ``{"right": 0.5}``, of ``left``, ``right``, ``top`` and
    ``bottom``. A model that draws token by token continues right and bottom alone. The picture is scaled so that its
    shorter side is the model's, unless it keeps its `own_size`; its pixels then stay, byte for byte. Neighbouring
    windows share `overlap` of a side; drawn pixels are brought to the given ones over `blend` pixels, by default half
    of a token's side. The rest is as of `vary`.

    Raises:
        InputError: as of `vary`, or a side is none or cannot be continued, or the result is too small or too large.
    """
    from compress.applications.asked import picture_of, wish_of
    from compress.applications.outpaint import outpaint as drawn
    from compress.models.candidate import open_candidate

    drawer = open_candidate(model, threads)
    wish = wish_of(drawer, label, count, features, seed, batch, sampling)
    return drawn(drawer, picture_of(picture), wish, extend, overlap, blend, own_size=own_size)[0]


def upscale(
    model: str | Path | Candidate,
    picture: str | Path | NDArray[np.uint8],
    factor: int = 2,
    *,
    keep: float | None = None,
    scales: int | None = None,
    free: bool = False,
    overlap: float = 0.5,
    label: int | str | Sequence[int | str] | None = None,
    count: int = 1,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    blend: int | None = None,
    batch: int = 0,
    threads: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) of `factor` times a picture's sides, whose detail the model draws, window by window.

    A next-scale model keeps the picture's `scales` coarsest scales (by default those that it has pixels for), a masked
    model a share `keep` of the enlarged picture's tokens (0.5), spread over it; one that draws token by token cannot.
    Made small again the result is the picture, but for rounding, unless it is `free`. The rest is as of `outpaint`.

    Raises:
        InputError: as of `vary`, or the model has no such setting, or the result is too small or too large.
    """
    from compress.applications.asked import picture_of, wish_of
    from compress.applications.upscale import upscale as drawn
    from compress.models.candidate import open_candidate

    drawer = open_candidate(model, threads)
    wish = wish_of(drawer, label, count, features, seed, batch, sampling)
    image = picture_of(picture)
    return drawn(drawer, image, wish, factor, keep, scales, overlap, blend, free=free)[0]


def draw_shards(
    engine: str | Path,
    output: str | Path,
    labels: Sequence[int | str] | NDArray[np.int64] | None = None,
    *,
    count: int = 0,
    seed: int = 0,
    features: NDArray[np.float32] | None = None,
    on: str = "local:1",
    format: Literal["webdataset", "png"] = "webdataset",
    shard: int = 0,
    batch: int = 0,
    threads: int = 1,
    device: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    require_plan: bool = False,
    listener: Listener | None = None,
    **sampling: Unpack[Sampling],
) -> Drawn:
    """Draw many pictures with an engine's folder into shards in `output`; those that it holds already stay.

    Picture i has label i of `labels` (n,), numbers or names, or row i of `features` (n, length, width), which are gone
    through again until there are `count`. Its bytes depend on the engine, the settings here and i, not on the workers
    of `on` (``local:N``, ``ray``, ``ray://HOST:PORT``) or the size of a `shard`, a multiple of `batch`. Each worker has
    so many `threads`; the engine is opened as `load_engine` says. 0 stands for the usual number.

    Raises:
        InputError: something cannot be opened or drawn, the folder holds something else, or shards failed twice.
    """
    from compress.bulk import generate as bulk
    from compress.bulk.drawing import Opening
    from compress.core.listener import Silent
    from compress.workers.place import place_of

    opening = Opening(threads, device, provider_options, require_plan)
    wish = bulk.Wish(labels, features, sampling, seed, count, format, shard, batch)
    return bulk.draw_shards(Path(engine), Path(output), wish, place_of(on), opening, listener or Silent())

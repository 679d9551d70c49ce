"""Try a foreign graph before anything is built upon it: it runs, ends, fits into memory, and says what its file says.

A decode graph computes ids, mask and positions itself, so its logits are compared with those of the file, which is
given them: picture by picture and without padding. A graph that cannot hide padding, or does not keep its cache as
Hugging Face's decoders do, is found here, before it draws a wrong picture.

Letters: N pictures, T tokens of a picture, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.foreign.writing import Writing
from export.graph.child import ChildError, ChildTimeoutError, ask
from export.graph.graph_file import brief
from export.runtime.manifest import Manifest

PROGRAM = "from export.foreign.first_run import main; main()"
SEED = 0
MOST_ROWS = 4  # pictures, of prompts of different lengths where there are such
STEPS = 8  # tokens that are read one by one, or a row of the picture and two more where a row has an end
# fp32 sums in another order stay below this share of the largest logit.
EXACT_SHARE = 1e-3
# What rounds its inputs differs from itself by as much as the calls differ. Padding that is not hidden moves logits by
# about their spread, so both shares of it leave room.
NOISE = 4
ROUNDED_SHARE, BROKEN_SHARE = 0.05, 0.5


class TrialError(ValueError):
    """A graph that cannot be used as it is; the message says what happened and what would help."""


@dataclass(frozen=True)
class Row:
    """What one picture was found to be: logits by the file, by the engine, and by the engine step by step.

    `spread` and `largest` are of the file's logits; `apart` is how far the engine's are from them, `drift` how far they
    are from themselves when they are made step by step.
    """

    file_finite: bool
    finite: bool
    spread: float
    largest: float
    apart: float
    apart_rms: float
    drift: float
    drift_rms: float


@dataclass(frozen=True)
class Trial:
    """A foreign decoder's file, whose weights take so many bytes, and the engine in a folder that it became.

    `lacks` are the inputs that tell other decoders what is padding.
    """

    source: Path
    source_bytes: int
    folder: Path
    manifest: Manifest
    writing: Writing
    lacks: tuple[str, ...]


def try_out(trial: Trial, *, seconds: float, threads: int) -> None:
    """Run the engine, and the file that it was adopted from, in a process of its own; judge what they say.

    Raises:
        TrialError: one of them does not run within `seconds` or the free memory, or their logits differ.
    """
    manifest, writing = trial.manifest, trial.writing
    request = {
        "source": str(trial.source),
        "threads": threads,
        "seconds": seconds,
        "kv_heads": manifest.kv_heads,
        "head_width": manifest.head_width,
        "image_ids": writing.image_ids,
        "steps": writing.grid[1] + 2 if writing.row_end else STEPS,
        "rows": [question(writing, label, number) for number, label in enumerate(chosen(writing))],
        "bytes_mapped": trial.source_bytes + sum(each.stat().st_size for each in trial.folder.iterdir()),
    }
    judge([Row(**row) for row in answered(request, trial.folder, seconds)], trial)


def chosen(writing: Writing) -> list[int]:
    """Labels that are tried: one for each length of a prompt, the shortest and the longest among them; else two."""
    of_length = {len(prompt): label for label, prompt in reversed(list(enumerate(writing.prompts)))}
    if len(of_length) == 1:
        return sorted({0, len(writing.prompts) - 1})
    lengths = sorted(of_length)
    return [of_length[length] for length in sorted({*lengths[: MOST_ROWS - 1], lengths[-1]})]


def question(writing: Writing, label: int, number: int) -> dict[str, Any]:
    """A picture of a class: our tokens, the ids that it is written in, and where each token is predicted."""
    generator = np.random.default_rng((SEED, number))
    tokens = generator.integers(0, len(writing.image_ids), writing.grid[0] * writing.grid[1]).tolist()
    ids, predicting = list(writing.prompts[label]), []
    for place, token in enumerate(tokens):
        predicting.append(len(ids) - 1)
        ids.append(writing.image_ids[token])
        if (place + 1) % writing.grid[1] == 0:
            ids += writing.row_end
    return {"label": label, "tokens": tokens, "ids": ids, "predicting": predicting}


def answered(request: dict[str, Any], folder: Path, seconds: float) -> list[dict[str, Any]]:
    """What the process found of each row.

    Raises:
        TrialError: it did not end in time, ended early, or says why it could not go on.
    """
    try:
        found = ask(PROGRAM, request, folder, seconds)
    except ChildTimeoutError:
        raise TrialError(
            f"its first runs did not end within {seconds:g} s, and may never; a large decoder on a slow machine gets "
            "more time with  first_run_seconds  in model.config"
        ) from None
    except ChildError as error:
        raise TrialError(
            f"ONNX Runtime ended with {error} when it first ran the graph; there may be too little memory"
        ) from error
    if "reason" in found:
        raise TrialError(f"ONNX Runtime cannot {found['phase']} ({brief(found['reason'])})")
    return list(found["rows"])


def judge(rows: Sequence[Row], trial: Trial) -> None:
    """Refuse a graph whose numbers are not those of its file.

    Raises:
        TrialError: says by how much they differ, and what would be right.
    """
    if not all(row.file_finite for row in rows):
        raise TrialError("its logits hold NaN or Inf")
    for row in rows:
        if not row.finite or differs(row, rows, rounds=trial.manifest.call_scaled):
            raise TrialError(padding(row, trial) if trial.writing.padded else meaning(row))
        if drifts(row, rounds=trial.manifest.call_scaled):
            raise TrialError(padding(row, trial) if trial.writing.padded else keeping(row))


def differs(row: Row, rows: Sequence[Row], *, rounds: bool) -> bool:
    """Whether an engine's logits are not those of the file."""
    exact = EXACT_SHARE * max(1.0, row.largest)
    if not rounds:
        return row.apart > exact
    noise = min(NOISE * max(each.drift_rms for each in rows), BROKEN_SHARE * row.spread)
    return row.apart_rms > max(exact, noise, ROUNDED_SHARE * row.spread)


def drifts(row: Row, *, rounds: bool) -> bool:
    """Whether an engine's logits depend on whether they are made in one call or step by step."""
    if rounds:
        return row.drift_rms > BROKEN_SHARE * row.spread
    return row.drift > EXACT_SHARE * max(1.0, row.largest)


def moved(row: Row) -> str:
    """By how much an engine's logits are not those of the file."""
    by = f"move by up to {max(row.apart, row.drift):.3g}" if row.finite else "become NaN or Inf"
    return f"{by}, and their spread is {row.spread:.3g}"


def meaning(row: Row) -> str:
    """Why a graph is refused that says something else as it is driven here."""
    return f"driven as its inputs' names say, its logits {moved(row)}; these inputs mean something else here"


def keeping(row: Row) -> str:
    """Why a graph is refused that is no causal decoder with a cache."""
    return (
        f"token by token its logits differ from those of one call by up to {row.drift:.3g}, and their spread is "
        f"{row.spread:.3g}: a causal decoder's do not, so it does not keep its cache, or reads what follows"
    )


def padding(row: Row, trial: Trial) -> str:
    """Why prompts of different lengths are refused."""
    lengths = sorted({len(prompt) for prompt in trial.writing.prompts})
    without = f"without {' and '.join(trial.lacks)} " if trial.lacks else ""
    return (
        f"prompts have {lengths[0]} to {lengths[-1]} ids, and the shorter ones are padded, which this graph {without}"
        f"does not hide: logits {moved(row)}; give all prompts the same number of ids, or export it with "
        "attention_mask and position_ids"
    )

"""A tiny space on a tiny checkpoint, and a search of it that many tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from compress.core.listener import Silent
from compress.core.store import Store
from compress.searching.found import Found
from compress.searching.goal import goal_of
from compress.searching.published import write
from compress.searching.recipes import check
from compress.searching.search import search
from compress.searching.space import load
from compress.searching.workshop import Workshop

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'optuna>=5'")
SPACE = """\
# tiny
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 8, held_out: 12}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - prune-ffn:   {{ratio: {{choose: [0.25, 0.5, 1.0]}}, score: magnitude, repair: false}}
  - prune-heads: {{ratio: 0.25, score: {{choose: [magnitude, taylor]}}, repair: false}}
    optional: true
engines:
  cpu: [export: {{target: onnxruntime}}]
"""


@dataclass(frozen=True)
class Searched:
    """A space, and what a search of it left behind."""

    space: Path
    store: Path
    output: Path
    found: Found


@pytest.fixture(scope="session")
def space_file(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The file of the tiny space."""
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(SPACE.format(checkpoint=checkpoint))
    return path


@pytest.fixture(scope="session")
def small_space(tmp_path_factory: pytest.TempPathFactory, space_file: Path) -> Path:
    """The file of a space of four combinations, all of which make an engine."""
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    text = space_file.read_text().replace("[0.25, 0.5, 1.0]", "[0.25, 0.5]")
    path.write_text(text.replace("{choose: [magnitude, taylor]}", "magnitude"))
    return path


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, space_file: Path) -> Searched:
    """One search of four trials; tests must not write into its folders."""
    room = tmp_path_factory.mktemp("searched")
    goal = goal_of({"kl": "50"}, ["latency"], {})
    found = search(
        load(space_file), goal, Store(room / "store"), room / "out", Silent(), seconds=1e6, most_trials=4, write=write
    )
    return Searched(space_file, room / "store", room / "out", found)


@pytest.fixture
def workshop(searched: Searched, tmp_path: Path) -> Callable[..., Workshop]:
    """A workshop for other budgets on the same store: `workshop(["kl=0.1"], ["size"])`."""

    def make(budgets: dict[str, str], minimise: Sequence[str] = ("latency",), path: Path | None = None) -> Workshop:
        space = load(path or searched.space)
        goal = goal_of(budgets, minimise, {})
        return Workshop(space, check(space), goal, Store(searched.store).prepare(), tmp_path / "out", Silent())

    return make

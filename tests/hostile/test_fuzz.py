"""2,000 seeded mutations of everything that users hand in: no traceback, hang, flood of memory or wrong success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.kinds import KINDS

HERE = Path(__file__).parent
COUNT = 2000
# A process for each, so that two workers share the time evenly.
GROUPS = ("recipes,gates", "tokens,stores", "checkpoints,reports", "engines,golden", "graphs,pictures", "commands")


def test_every_kind_is_in_one_group() -> None:
    assert sorted(",".join(GROUPS).split(",")) == sorted(KINDS)


@pytest.fixture(autouse=True)
def limited() -> None:
    """The fuzzer limits the time of every case itself."""


@pytest.mark.slow
@pytest.mark.parametrize("kinds", GROUPS)
def test_mutations_end_well_or_in_one_line(kinds: str, corpus: Path, tmp_path: Path) -> None:
    share = COUNT * sum(KINDS[kind] for kind in kinds.split(",")) // sum(KINDS.values())
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--kinds", kinds, "--count", str(share), "--corpus", str(corpus),
        "--keep", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{HERE.parents[1]}:{HERE}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_case_is_made_from_its_seed_and_number_alone(corpus: Path, tmp_path: Path) -> None:
    from fuzz.trial import Number

    for kind in KINDS:
        made = []
        for room in ("a", "b"):
            own = tmp_path / kind / room
            own.mkdir(parents=True)
            folder = os.getcwd()
            os.chdir(own)
            try:
                (own / "in").mkdir()
                case = Number(3, kind, 5).make(corpus, own / "in")
            finally:
                os.chdir(folder)
            files = {
                str(path.relative_to(own)): path.read_bytes()
                for path in sorted(own.rglob("*"))
                if path.is_file() and not path.is_symlink()
            }
            made.append((case.said, [part.replace(str(own), "") for part in case.arguments], files))
        assert made[0][:2] == made[1][:2], kind
        # Archives hold the time of writing.
        if kind not in ("tokens", "golden", "checkpoints", "graphs", "recipes"):
            assert made[0][2] == made[1][2], kind

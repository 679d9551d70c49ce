"""`python -m fuzz`: try many cases, print each distinct fault with what makes it again, exit with 1 if there is one."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzz import corpus, trial
from fuzz.kinds import KINDS

REPORTED = 1000  # cases after which a line says how far it is


def main() -> int:
    """Read the options and try the cases; 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="cases, over all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--only", help="one case, as a fault names it, for example recipes:17")
    parser.add_argument("--corpus", type=Path, help="folder of what is mutated, made if not there  [default: new]")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for the files of failing cases")
    given = parser.parse_args()
    numbers = numbered(given.seed, given.kinds.split(","), given.count)
    if given.only:
        kind, index = given.only.split(":")
        numbers = [trial.Number(given.seed, kind, int(index))]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as room:
        prepared = corpus.prepare((given.corpus or Path(room) / "corpus").resolve())
        seen = tried(numbers, prepared, given.keep.resolve(), f"--seed {given.seed}")
    for (kind, signature), count in sorted(seen.items()):
        print(f"{count:6d}  {kind}: {signature}")
    took, count = time.monotonic() - begun, seen.total()
    print(f"{len(numbers)} cases in {took:.0f} s, seed {given.seed}: {count} faults, {len(seen)} of them distinct")
    return 1 if seen else 0


def tried(numbers: list[trial.Number], prepared: Path, kept: Path, seed: str) -> Counter[tuple[str, str]]:
    """Try the cases and print each distinct fault; how often each of them was seen."""
    seen: Counter[tuple[str, str]] = Counter()
    for done, (number, fault) in enumerate(trial.run(numbers, prepared, kept), 1):
        if done % REPORTED == 0:
            print(f"{done} of {len(numbers)}, {seen.total()} faults", file=sys.stderr)
        if fault is None:
            continue
        seen[fault.kind, fault.signature] += 1
        if seen[fault.kind, fault.signature] == 1:
            print(f"{fault.kind}: {fault.signature}\n    {seed} --only {number}", flush=True)
            print("    " + "\n    ".join(fault.details[:400].splitlines()), flush=True)
    return seen


def numbered(seed: int, kinds: list[str], count: int) -> list[trial.Number]:
    """As many cases, each kind in proportion to its weight, all kinds mixed."""
    total = sum(KINDS[kind] for kind in kinds)
    shares = {kind: max(1, count * KINDS[kind] // total) for kind in kinds}
    every = [
        (index / share, trial.Number(seed, kind, index)) for kind, share in shares.items() for index in range(share)
    ]
    return [number for _, number in sorted(every, key=lambda each: each[0])]


if __name__ == "__main__":
    sys.exit(main())

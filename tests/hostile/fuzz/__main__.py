"""`python -m fuzz`: try many cases, print each distinct fault with what makes it again, exit with 1 if there is one."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzz import corpus, trial
from fuzz.kinds import KINDS


def main() -> int:
    """Read the options and try the cases; 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="cases, over all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--only", help="one case, as a fault names it, for example recipes:17")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / f"fuzz-corpus-{os.getuid()}")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for the files of failing cases")
    given = parser.parse_args()
    numbers = numbered(given.seed, given.kinds.split(","), given.count)
    if given.only:
        kind, index = given.only.split(":")
        numbers = [trial.Number(given.seed, kind, int(index))]
    seen: Counter[tuple[str, str]] = Counter()
    begun = time.monotonic()
    for number, fault in trial.run(numbers, corpus.prepare(given.corpus.resolve()), given.keep.resolve()):
        seen[fault.kind, fault.signature] += 1
        if seen[fault.kind, fault.signature] == 1:
            again = f"--seed {given.seed} --only {number}"
            print(f"{fault.kind}: {fault.signature}\n    {again}\n    {fault.details[:300]}", flush=True)
    for (kind, signature), count in sorted(seen.items()):
        print(f"{count:6d}  {kind}: {signature}")
    took, count = time.monotonic() - begun, sum(seen.values())
    print(f"{len(numbers)} cases in {took:.0f} s, seed {given.seed}: {count} faults, {len(seen)} of them distinct")
    return 1 if seen else 0


def numbered(seed: int, kinds: list[str], count: int) -> list[trial.Number]:
    """As many cases, each kind in proportion to its weight."""
    total = sum(KINDS[kind] for kind in kinds)
    shares = {kind: max(1, count * KINDS[kind] // total) for kind in kinds}
    return [trial.Number(seed, kind, index) for kind, share in shares.items() for index in range(share)]


if __name__ == "__main__":
    sys.exit(main())

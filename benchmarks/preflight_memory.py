"""Memory and time that runs take, against what preflight foresaw: `python benchmarks/preflight_memory.py`.

Each recipe runs in a process of its own with a fresh store; its peak is what the system counts for it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

RECIPES = ("quickstart", "int8-only", "emoji-masked")
FORESEEN = re.compile(r"the run needs about (\d+) s, (\d+) MiB of memory")
RUN = """
import sys
from compress.__main__ import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def main() -> None:
    """A line for each recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES, help="shipped names or files")
    print(
        "| recipe | memory, MiB | foreseen | share | time, s | foreseen |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for recipe in parser.parse_args().recipes:
        with TemporaryDirectory() as room:
            places = ["-o", str(Path(room) / "run"), "--store", str(Path(room) / "store")]
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", RUN, "run", recipe, *places], capture_output=True, text=True, check=False
            )
            seconds = time.monotonic() - started
        said = FORESEEN.search(done.stdout + done.stderr)
        peak = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
        if said is None or peak is None:
            sys.exit(f"{recipe}: {(done.stderr.strip().splitlines() or ['nothing was said'])[-1]}")
        taken, foreseen = int(peak[1]) / 1024, int(said[2])
        print(
            f"| {recipe} | {taken:.0f} | {foreseen} | {foreseen / taken:.2f} | {seconds:.0f} | {said[1]} |", flush=True
        )


if __name__ == "__main__":
    main()

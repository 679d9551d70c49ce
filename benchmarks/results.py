"""Writes RESULTS.md from what the other scripts measured: `python benchmarks/results.py *.json`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from decode import table
from export_cost import table as export_table
from gpu import page as gpu_page
from positions import table as places_table

HEAD = """# What was measured

{machine}. Reading memory {read:.1f} GB/s, fp32 products {fp32:.0f} GFLOP/s, int8 products {int8:.0f} Gop/s, measured
by the same run. Rows of a table were timed in one process, interleaved; ratios are medians of paired ratios. A batch is
the rows of a step: 2 is one picture with classifier-free guidance. "of the limit" is the part of the measured bandwidth
that reading the weights once a token takes (causal shapes), or of the measured rate of products (masked, next-scale).
"""


def main() -> None:
    """Join the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    args = parser.parse_args()
    args.output.write_text(markdown([json.loads(path.read_text(encoding="utf-8")) for path in args.files]))


def markdown(found: list[dict[str, Any]]) -> str:
    """All files as one page; the machine is the first one's. Those of a GPU come last, each with its own machine."""
    gpus = [each for each in found if "limits" in each["machine"]]
    found = [each for each in found if each not in gpus]
    machine = next(each["machine"] for each in found if "roofline" in each["machine"])
    limits = machine["roofline"]
    head = HEAD.format(
        machine=f"{machine.get('cpu', 'a CPU')}, {limits['threads']} threads",
        read=limits["read_gb_per_s"],
        fp32=limits["fp32_gflops"],
        int8=limits["int8_gflops"],
    )
    rows = [row for each in found for row in each["rows"] if "stack" in row]
    places = [row for each in found for row in each["rows"] if "ms_early" in row]
    costs = [row for each in found for row in each["rows"] if "stack" not in row and "ms_early" not in row]
    parts = [table(rows), places_table(places) if places else "", export_table(costs) if costs else ""]
    parts += [gpu_page(each) for each in gpus]
    return head + "\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    main()

"""What pruning loses, and what the repair of least squares wins back: `python benchmarks/pruning.py`.

Every row is a shipped model that passes pruned without training, compared with itself on held-out pictures, once as
pruning leaves it and once repaired. The last columns round the pruned model's weights and activations to int8 (static
scales, `down` too) and print the KL from the pruned model: repaired weights must not be harder to quantize.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import shapes

from compress.core.settings import parse, plain
from compress.data.tokens import open_source
from compress.measure.drift.fidelity import fidelity
from compress.measure.speed.environment import environment
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples, examples
from compress.passes import Context, find

CALIBRATION = {"digits": 256, "emoji": 128, "emoji-masked": 128}
TOKENS = {"emoji-masked": "emoji"}
INT8 = {"weights": "int8", "activations": "int8", "down": "same", "head": "float"}

Steps = Sequence[tuple[str, dict[str, Any]]]


def uniform(heads: float, units: float) -> Steps:
    """The same share of each layer's heads and units."""
    return [
        ("prune-heads", {"ratio": heads, "score": "taylor"}),
        ("prune-ffn", {"ratio": units, "score": "taylor"}),
    ]


ROWS: dict[str, dict[str, Steps]] = {
    "digits": {
        "25 % of heads, 33 % of units": uniform(0.25, 0.33),
        "2 layers, 25 % of heads, 40 % of units": [("prune-layers", {"count": 2}), *uniform(0.25, 0.4)],
        **{f"prune-to {share}": [("prune-to", {"parameters": share})] for share in (0.705, 0.6, 0.5)},
    },
    "emoji": {f"prune-to {share}": [("prune-to", {"parameters": share})] for share in (0.9, 0.8)},
    "emoji-masked": {
        "33 % of heads and units by magnitude": [
            ("prune-heads", {"ratio": 0.33, "score": "magnitude"}),
            ("prune-ffn", {"ratio": 0.33, "score": "magnitude"}),
        ],
        "prune-to 0.8": [("prune-to", {"parameters": 0.8})],
    },
}


def main() -> None:
    """Prune each model in each way, compare, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--models", default=",".join(ROWS))
    parser.add_argument("--held-out", type=int, default=300, help="pictures at most")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.models.split(","):
        model, tokens = shapes.build(name), open_source(TOKENS.get(name, name), "tokens")
        with tempfile.TemporaryDirectory() as room:
            context = Context(model, tokens, CALIBRATION[name], 0, Path(room))
            held_out = tokens.part("held_out")
            batch = examples(model.shape, tokens.part("held_out", min(args.held_out, len(held_out))), 0)
            rows += [compared(name, title, steps, context, batch) for title, steps in ROWS[name].items()]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"machine": plain(environment()), "rows": rows}, indent=1) + "\n")


def compared(name: str, title: str, steps: Steps, context: Context, batch: Examples) -> dict[str, Any]:
    """One row: pruned alone, and repaired."""
    reference = context.reference.score(batch.inputs, batch.features)
    row: dict[str, Any] = {"model": name, "title": title, "pictures": len(batch)}
    for repaired in (False, True):
        start, model = time.monotonic(), context.reference
        for step, settings in steps:
            model = passed(model, step, {**settings, "repair": repaired}, context)
        seconds = time.monotonic() - start
        pruned = model.score(batch.inputs, batch.features)
        quantized = passed(model, "quantize", INT8, context).score(batch.inputs, batch.features)
        drift = fidelity(reference, pruned, batch.targets, scored=batch.scored)
        row["repaired" if repaired else "pruned"] = {
            "left": model.parameters() / context.reference.parameters(),
            "seconds": seconds,
            "nll_drift": drift.nll_drift,
            "nll_drift_ci95": drift.nll_drift_ci95,
            "kl": drift.kl,
            "agreement": drift.agreement,
            "int8_kl": fidelity(pruned, quantized, batch.targets, scored=batch.scored).kl,
        }
    return row


def passed(model: ImageModel, step: str, settings: dict[str, Any], context: Context) -> ImageModel:
    """The model behind a pass."""
    made = parse(find(step, "pruning"), settings, step).run(model, context).model
    assert isinstance(made, ImageModel)
    return made


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| model | what went, without training | left | no repair: drift, KL x1000, agreement | repaired | "
        "int8 adds, KL x1000: no repair, repaired |",
        "|---|---|---:|---|---|---|",
    ]
    for row in rows:
        pruned, repaired = row["pruned"], row["repaired"]
        lines.append(
            f"| {row['model']} | {row['title']} | {pruned['left']:.1%} | {told(pruned)} | {told(repaired)} | "
            f"{1000 * pruned['int8_kl']:.3g}, {1000 * repaired['int8_kl']:.3g} |"
        )
    return "\n".join(lines)


def told(drift: dict[str, Any]) -> str:
    """A model's drift in a cell."""
    low, high = (100 * end for end in drift["nll_drift_ci95"])
    return (
        f"{100 * drift['nll_drift']:+.2f} % [{low:.2f}, {high:.2f}], {1000 * drift['kl']:.3g}, "
        f"{100 * drift['agreement']:.1f} %"
    )


if __name__ == "__main__":
    main()

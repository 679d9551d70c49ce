"""Gates files of `verify`."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from fuzz import blobs, trees
from fuzz.case import Case
from fuzz.kinds import recipes

GATES: dict[str, Any] = {
    "nll_drift": "50%", "kl": 2.0, "agreement": 0.01, "total_variation": 0.9, "flip_rate": "90%", "decide": "estimate",
    "decoder_psnr": 3.5, "decoder_ssim": 0.1, "unmeasured": "kept",
}  # fmt: skip


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A gates file with a change."""
    path = room / "gates.yaml"
    if random.random() < 0.6:
        keys = random.sample(sorted(GATES), random.randrange(1, len(GATES)))
        tree, done = trees.change({key: GATES[key] for key in keys}, random)
        wrong, said = recipes.reason(done), str(done)
        if not {key for key in tree if tree[key] is not None} - {"decide", "unmeasured"}:
            wrong = "a file without a gate was taken"
        path.write_text(recipes.dumped(tree), encoding="utf-8", errors="surrogatepass")
    else:
        text, said = recipes.textual(recipes.dumped(GATES), random)
        data = text.encode("utf-8", errors="surrogatepass")
        if random.random() < 0.3:
            data, said = blobs.change(data, random)
        path.write_bytes(data)
        wrong = "" if recipes.is_yaml(data) else "a gates file that is not YAML was taken"
    model, tokens = str(corpus / "model"), str(corpus / "tokens.npz")
    arguments = ("verify", model, model, "--tokens", tokens, "--held-out", "4", "--gates", str(path), "--threads", "1")
    return Case(arguments, said, wrong, named="gates.yaml", breach=True)

"""What a page draws, against the engine that it was made of: `python benchmarks/browser.py ENGINE SITE --pictures 32`.

Chromium, without a head, loads the site that `compress export-web ENGINE -o SITE` wrote and draws classes in turn with
one seed; the engine draws the same on one thread. Compared are tokens and pixels; times are medians of whole pictures.
`--isolated` serves the headers that let onnxruntime-web use several threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from export.runtime.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugins"))
import headless

LOAD = """
const done = arguments[0];
const began = performance.now();
import("./drawing.js").then((module) => module.Engine.load(new URL("./", location), () => {})).then((engine) => {
  window.engine = engine;
  done(performance.now() - began);
}, (error) => done(`${error}`));
"""
DRAW = """
const [label, seed, number, done] = arguments;
engine.draw(label, BigInt(seed), number, () => {}, () => false).then((made) => done({
  tokens: Array.from(made.tokens, Number), pixels: Array.from(made.pixels), ms: made.drawMs + made.decodeMs,
}), (error) => done(`${error}`));
"""
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def in_browser(site: Path, labels: list[int], seed: int, isolated: bool) -> tuple[float, list[dict[str, Any]]]:
    """Milliseconds to load, and every picture: tokens, pixels, milliseconds."""
    with tempfile.TemporaryDirectory() as profile, headless.served(site, ISOLATED if isolated else {}) as address:
        browser = headless.opened(Path(profile))
        try:
            browser.set_script_timeout(600)
            browser.get(address)
            load_ms = browser.execute_async_script(LOAD)
            made = [browser.execute_async_script(DRAW, label, str(seed), number) for number, label in enumerate(labels)]
        finally:
            browser.quit()
    for each in (load_ms, *made):
        if isinstance(each, str):
            raise SystemExit(each)
    return load_ms, made


def natively(engine: Engine, labels: list[int], seed: int) -> list[dict[str, Any]]:
    """The same from the engine, one picture after the other."""
    made = []
    for number, label in enumerate(labels):
        began = time.perf_counter()
        tokens = engine.draw_tokens(np.array([label]), seed, first=number)
        pixels = engine.decode_images(tokens)
        made.append({"tokens": tokens[0], "pixels": pixels[0], "ms": (time.perf_counter() - began) * 1e3})
    return made


def main() -> None:
    """Draw with both, and print how they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("site", type=Path)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isolated", action="store_true")
    asked = parser.parse_args()
    engine = Engine.load(asked.engine, threads=1)
    labels = [
        number * max(engine.classes // asked.pictures, 1) % max(engine.classes, 1) for number in range(asked.pictures)
    ]
    load_ms, shown = in_browser(asked.site, labels, asked.seed, asked.isolated)
    wanted = natively(engine, labels, asked.seed)
    differing = [int((np.array(a["tokens"]) != b["tokens"]).sum()) for a, b in zip(shown, wanted, strict=True)]
    levels = [
        int(np.abs(np.array(a["pixels"], dtype=int).reshape(b["pixels"].shape) - b["pixels"]).max())
        for a, b in zip(shown, wanted, strict=True)
    ]
    same = [level for level, count in zip(levels, differing, strict=True) if not count]
    found = {
        "pictures": len(labels),
        "pictures_with_other_tokens": sum(count > 0 for count in differing),
        "tokens": len(labels) * engine.length,
        "other_tokens": sum(differing),
        "largest_pixel_difference_of_equal_tokens": max(same, default=None),
        "pictures_with_equal_pixels": sum(level == 0 for level in levels),
        "site_mb": round(sum(path.stat().st_size for path in asked.site.rglob("*") if path.is_file()) / 1e6, 1),
        "load_ms": round(load_ms),
        "first_picture_ms": round(shown[0]["ms"]),
        "median_ms": round(float(np.median([each["ms"] for each in shown]))),
        "engine_median_ms": round(float(np.median([each["ms"] for each in wanted]))),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""What `import compress` offers to Python programs; the command line is a thin layer over the same functions.

Letters: N pictures, T tokens of a picture, H x W x C pixels.

Nothing heavy is imported before a function needs it, so `import compress` is quick.
"""

from compress.api.drawing import draw_shards, generate, outpaint, upscale, vary
from compress.api.judging import bench, bisect, verify
from compress.api.opening import load, load_engine, load_tokens
from compress.api.passes import apply
from compress.api.recipes import init, plan, run, run_folder, search, sensitivity, train

__all__ = [
    "apply",
    "bench",
    "bisect",
    "draw_shards",
    "generate",
    "init",
    "load",
    "load_engine",
    "load_tokens",
    "outpaint",
    "plan",
    "run",
    "run_folder",
    "search",
    "sensitivity",
    "train",
    "upscale",
    "vary",
    "verify",
]

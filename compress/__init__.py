"""Make trained image-token transformers small and fast, and prove what was lost and won at every step."""

from typing import TYPE_CHECKING, Any

from compress.api import (
    apply,
    bench,
    bisect,
    draw_shards,
    generate,
    init,
    load,
    load_engine,
    load_tokens,
    outpaint,
    plan,
    run,
    search,
    sensitivity,
    train,
    upscale,
    vary,
    verify,
)

if TYPE_CHECKING:
    from compress.core.settings import InputError

__all__ = [
    "InputError",
    "__version__",
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
    "search",
    "sensitivity",
    "train",
    "upscale",
    "vary",
    "verify",
]


def __getattr__(name: str) -> Any:
    """What is loaded when it is asked for."""
    if name == "InputError":
        from compress.core.settings import InputError

        return InputError
    if name == "__version__":
        from importlib.metadata import version

        return version("image-token-compress")
    raise AttributeError(f"module 'compress' has no attribute {name!r}")

"""Settings of tiny transformers that several folders of tests make."""

from __future__ import annotations

from typing import Any


def next_scale(*scales: int) -> dict[str, Any]:
    """A next-scale model of squares of these sides, the last of which is the grid."""
    return {
        "order": "next-scale",
        "grid": (scales[-1], scales[-1]),
        "scales": scales,
        "latent_width": 6,
        "positions": "learned",
        "norm": "layernorm",
        "norm_affine": False,
        "final_affine": False,
        "modulation": "class",
        "qk_norm": "l2",
        "activation": "gelu-tanh",
        "bias": True,
    }

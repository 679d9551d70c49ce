"""The quantities that a goal may name, without the measures that find them: a wrong name or limit is said at once.

The full check is `goal.goal_of`, with the same words. A test holds this table equal to the keys of gates.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass
from typing import Any, Literal

from compress.core.settings import MOST_BATCH, InputError, nearest, parse, setting, shown
from compress.searching.limits import LATENCY

MEASURES = "compress.measures"  # the entry points of third parties' measures, whose quantities are not known here
SHARES_HIGHER = (
    *("coupled_pictures", "first_divergence", "agreement", "class_accuracy", "decoder_ssim", "encoder_agreement"),
    *("low_precision_share", "low_precision_products", "fused_attention", "caches_in_place"),
)
SHARES_LOWER = (
    *("coupled_tokens", "nll_drift", "single_file_tokens", "total_variation", "flip_rate", "sampler_tokens"),
    "class_accuracy_drop",
)
HIGHER = ("decoder_psnr", "decoder_psnr_worst", "images_psnr", "speedup")
LOWER = (
    *("loop_kl", "kl", "max_abs_difference", "worst_class_kl", "worst_position_kl", "worst_token_shift", "fd"),
    *("latency_ms", "peak_mib", "size"),
)
OBJECTIVES = (LATENCY, *SHARES_LOWER, *LOWER)
QUANTITIES = (*SHARES_HIGHER, *SHARES_LOWER, *HIGHER, *LOWER)


def check(limits: Mapping[str, Any], where: str, names: Sequence[str]) -> None:
    """Refuse limits (`where` names their place) and names of objectives that no measure of this project allows.

    What a measure of a third party may have is let be.

    Raises:
        InputError: a quantity is unknown, a limit is out of range, or an objective is better the higher it is.
    """
    if importlib.metadata.entry_points(group=MEASURES):
        limits = {name: limit for name, limit in limits.items() if name in QUANTITIES}
        names = [name for name in names if name in QUANTITIES]
    for name in names:
        check_objective(name)
    if limits:
        parse(gate_outline(), limits, where)


def check_objective(name: str, known: Sequence[str] = QUANTITIES, lower: Sequence[str] = OBJECTIVES) -> None:
    """Refuse what is no objective, of the `known` quantities those that are better the `lower` they are.

    Raises:
        InputError: no quantity has this name, or it is better the higher it is.
    """
    if name in lower:
        return
    if name in known:
        raise InputError(f"--minimize {name}: is better the higher it is; give it a limit with --budget {name}=...")
    raise InputError(f"--minimize: no quantity is called {shown(name)}; {nearest(name, lower)}")


def gate_outline() -> type[Any]:
    """A dataclass with the fields of a gate."""
    shares = {*SHARES_HIGHER, *SHARES_LOWER}
    limits = [
        (name, float | None, setting(None, doc="", low=0, high=1 if name in shares else None)) for name in QUANTITIES
    ]
    judged = [
        ("speedup_batch", int | None, setting(None, doc="", low=1, high=MOST_BATCH)),
        ("decide", Literal["interval", "estimate"], setting("interval", doc="")),
        ("unmeasured", Literal["breach", "kept"], setting("breach", doc="")),
    ]
    return make_dataclass("Gate", [*judged, *limits], frozen=True)

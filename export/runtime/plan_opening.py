"""Opening what a target's builder made of an engine, or saying why ONNX Runtime runs it instead."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from .deployment import BuiltPlan, Deployment
from .engine_files import PLANS, Seal
from .errors import EngineError, PlanWarning, RunnerMissingError
from .manifest import Manifest


def opened_plan(
    deployment: Deployment, folder: Path, manifest: Manifest, seals: Mapping[str, Seal], *, required: bool
) -> BuiltPlan | None:
    """What the target's builder made, where this machine can run it; elsewhere ONNX Runtime runs the same graphs.

    Raises:
        EngineError: it cannot, though that is `required`; or a plan is damaged.
    """
    opens = deployment.opens
    if opens is None:
        return None
    if "plan" not in manifest.files:
        if required:
            raise EngineError(f"{folder}: holds no plan; build one with  build-engine")
        return None
    try:
        plan = opens(folder / manifest.files["plan"], manifest)
    except RunnerMissingError as error:
        if required:
            raise EngineError(f"{folder}: {error}") from error
        warnings.warn(f"{folder}: {error}; ONNX Runtime draws instead", PlanWarning, stacklevel=4)
        return None
    for role in PLANS.values():
        if role in seals:
            seals[role].check()
    return plan

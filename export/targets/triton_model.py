"""What Triton's Python backend runs: classes and seeds to pictures; `triton_layout` writes it as `model.py`.

Only Triton's own module, NumPy, ONNX Runtime and the runtime that lies beside this file are needed.

Letters: n pictures of a request, P x C features of a text, H x W x C pixels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

SETTINGS = ("cfg_scale", "temperature", "top_k", "top_p", "steps")  # optional inputs, one number for a picture


class TritonPythonModel:
    """An engine, and the requests that are drawn with it together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine that lies beside this file."""
        place = Path(args["model_repository"]) / args["model_version"]
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
        from image_token_engine import serving
        from image_token_engine.engine import Engine

        settings = {name: each["string_value"] for name, each in json.loads(args["model_config"])["parameters"].items()}
        device, options = settings["device"], {}
        if device != "cpu":
            options["device_id"] = args.get("model_instance_device_id", "0")
        self.engine = Engine.load(
            place / "engine", int(settings["threads"]), device=device, provider_options=options or None
        )
        self.serving = serving

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request, in their order; what cannot be drawn is an error of its own request only."""
        responses: list[Any] = [None] * len(requests)
        drawn = {}
        for index, request in enumerate(requests):
            try:
                drawn[index] = self.request(request)
            except ValueError as error:
                responses[index] = failed(error)
        try:
            pictures = self.serving.answers(self.engine, [*drawn.values()])
            for index, each in zip(drawn, pictures, strict=True):
                responses[index] = triton.InferenceResponse([triton.Tensor("images", each)])
        except Exception as error:  # of the engine: nothing of this batch was drawn
            for index in drawn:
                responses[index] = failed(error)
        return responses

    def request(self, request: Any) -> Any:
        """What a request asks for; each of its inputs is (n, 1), features are (n, P, C).

        Raises:
            ValueError: it cannot be drawn.
        """
        given = {name: numbers(request, name) for name in ("labels", "seed", "features", *SETTINGS)}
        features, labels, seeds = (given.pop(name) for name in ("features", "labels", "seed"))
        count = len(features if labels is None else labels)
        labels = np.zeros(count, dtype=np.int64) if labels is None else labels.ravel()
        seeds = np.zeros(count, dtype=np.uint64) if seeds is None else seeds.ravel()
        sampling = {name: alike(name, value) for name, value in given.items() if value is not None}
        return self.serving.Request.of(self.engine, labels, seeds.tolist(), sampling, features)


def numbers(request: Any, name: str) -> Any:
    """An input as an array; None where the request has none."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def alike(name: str, values: Any) -> int | float:
    """The one setting of all pictures of a request.

    Raises:
        ValueError: they differ.
    """
    found: list[int | float] = np.unique(values).tolist()
    if len(found) != 1:
        raise ValueError(f"{name} {found}: one setting for all pictures of a request; send others in another request")
    return found[0]


def failed(error: Exception) -> Any:
    """The response that says what is wrong."""
    return triton.InferenceResponse(error=triton.TritonError(" ".join(str(error).split())))

"""Features of pictures by which sets are compared, from what is on hand; each has a name that says what it is.

Letters: N pictures, T tokens of a picture, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compress.measure.classify import DigitClassifier
    from compress.models.image_model import ImageModel

AT_ONCE = 32


class Extractor(NamedTuple):
    """Features (N, D) of tokens (N, T), and their name."""

    name: str
    features: Callable[[NDArray[np.int64]], NDArray[np.float64]]


def of_classifier(classifier: DigitClassifier) -> Extractor:
    """Decision values of the digit classifier, one for each class."""
    return Extractor("SVC", lambda tokens: np.asarray(classifier.machine.decision_function(tokens), dtype=np.float64))


def of_tokenizer(model: ImageModel) -> Extractor | None:
    """What the image encoder makes of a picture before codes are looked up, averaged over places.

    None where the tokenizer has no such encoder.
    """
    import torch

    autoencoder = getattr(model.tokenizer, "autoencoder", None)
    if autoencoder is None or model.tokenizer.encoder() is None or not hasattr(autoencoder, "latents"):
        return None
    signed = getattr(autoencoder.config, "pixel_range", "unit") == "signed"

    def features(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        made = []
        with torch.no_grad():
            for start in range(0, len(tokens), AT_ONCE):
                images = torch.from_numpy(model.decode_images(tokens[start : start + AT_ONCE]))
                pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
                latents = autoencoder.latents(pixels * 2 - 1 if signed else pixels)  # (n, D, h, w)
                made.append(latents.flatten(2).mean(dim=2).double().numpy())
        return np.concatenate(made)

    return Extractor("VQ", features)

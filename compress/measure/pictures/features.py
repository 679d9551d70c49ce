"""Features of pictures by which sets are compared, from what is on hand; each has a name that says what it is.

Letters: N pictures, T tokens of a picture, D features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, one_line
from compress.core.user_files import user_path
from compress.measure.pictures.classify import DIGITS, DigitClassifier, classifier

if TYPE_CHECKING:
    from compress.measure.subject import Side
    from compress.models.candidate import Candidate

INCEPTION = "Inception"  # InceptionV3 with the weights of the original FID, given by path
AT_ONCE = 32
POOLED = "2048"  # what torch-fidelity calls the layer that FID is taken on


class Extractor(NamedTuple):
    """Features (N, D) of tokens (N, T), and their name."""

    name: str
    features: Callable[[NDArray[np.int64]], NDArray[np.float64]]


def extractor(reference: Side) -> Extractor | None:
    """InceptionV3's features where its weights are given; else those on hand: the digit classifier's, or the
    tokenizer's image encoder's.
    """
    given = reference.given

    def found() -> Extractor | None:
        if given.inception:
            return of_inception(user_path(given.inception), reference.model)
        if given.source == DIGITS:
            return of_classifier(classifier(given))
        return of_tokenizer(reference.model)

    return given.once("extractor of features", found)


def of_classifier(classifier: DigitClassifier) -> Extractor:
    """Decision values of the digit classifier, one for each class."""
    return Extractor("SVC", lambda tokens: np.asarray(classifier.machine.decision_function(tokens), dtype=np.float64))


def of_tokenizer(model: Candidate) -> Extractor | None:
    """What the image encoder makes of a picture before codes are looked up, averaged over places.

    None where the tokenizer has no such encoder.
    """
    import torch

    tokenizer = getattr(model, "tokenizer", None)  # an engine has none
    autoencoder = getattr(tokenizer, "autoencoder", None)
    if tokenizer is None or autoencoder is None or tokenizer.encoder() is None or not hasattr(autoencoder, "latents"):
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


def check_inception(weights: Path, where: str) -> None:
    """Find out at once whether InceptionV3 can be had, before anything long begins.

    Raises:
        InputError: the file is missing, or torch-fidelity is.
    """
    if not weights.is_file():
        raise InputError(
            f"{where}: {weights}: no such file; it holds the weights of InceptionV3 as torch-fidelity has them"
        )
    if find_spec("torch_fidelity") is None:
        raise InputError(f"{where}: needs torch-fidelity; pip install 'torch-fidelity>=0.4'")


def of_inception(weights: Path, model: Candidate) -> Extractor:
    """Pooled features (N, 2048) of the InceptionV3 that FID is defined on, by torch-fidelity.

    Grey pictures are given three equal colours. torch-fidelity would run any code that a pickle holds, so the file is
    read once, as tensors alone, and torch-fidelity is given a private copy of these.

    Raises:
        InputError: torch-fidelity cannot be imported, or the weights are not its.
    """
    import torch

    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        state = torch.load(weights, weights_only=True)
        with tempfile.TemporaryDirectory() as room:
            copy = Path(room) / "inception.pth"
            torch.save(state, copy)
            network = FeatureExtractorInceptionV3("inception", [POOLED], feature_extractor_weights_path=str(copy))
    except Exception as error:
        raise InputError(f"{weights}: InceptionV3 cannot be loaded ({one_line(str(error))})") from error

    def features(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        made = []
        with torch.no_grad():
            for start in range(0, len(tokens), AT_ONCE):
                images = torch.from_numpy(model.decode_images(tokens[start : start + AT_ONCE])).permute(0, 3, 1, 2)
                made.append(network(images.expand(-1, 3, -1, -1))[0].double().numpy())
        return np.concatenate(made)

    return Extractor(INCEPTION, features)

"""Features of texts by a pipeline's own CLIP encoder, through the transformers library; it is imported only here.

Letters: N texts, P tokens of a text, C width of the features.

Features (P + 1, C) are the states before the encoder's last layer, and in the last row the pooled embedding; the
narrower of the two is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from compress.core.settings import InputError, shown
from compress.models.checkpoints.layouts import CONFIG, read_config
from compress.models.text_library import check_installed
from export.runtime.errors import first_line
from export.runtime.shape import LONGEST
from export.tracing.trace import EXAMPLE_BATCH, plain_graph

LENGTH = 77  # tokens of a text, of every published CLIP
BATCH = 64
HALF = "fp16"  # how diffusers names a second set of weights


class ClipFeatures(nn.Module):
    """Features (N, P + 1, C) of ids (N, P)."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        """States before the last layer, then the pooled embedding."""
        made = self.encoder(input_ids=ids, output_hidden_states=True)
        states, pooled = made.hidden_states[-2], made.text_embeds[:, None]
        width = max(states.shape[-1], pooled.shape[-1])
        rows = [functional.pad(each, (0, width - each.shape[-1])) for each in (states, pooled)]
        return torch.cat(rows, dim=1)


def write(made: NDArray[np.float32], path: Path) -> None:
    """Features as `generate --features` reads them.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.save(file, made)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def length(pipeline: Path) -> int:
    """Tokens of a text, by the encoder's config.

    Raises:
        InputError: it states no such number.
    """
    path = pipeline / "text_encoder" / CONFIG
    found = read_config(path).get("max_position_embeddings", LENGTH)
    if type(found) is not int or not 0 < found <= LONGEST:
        raise InputError(
            f"{path}: max_position_embeddings: {shown(found)} is not a whole number from 1 to {LONGEST - 1}"
        )
    return found


def features(pipeline: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Features (N, P + 1, C) of texts.

    Raises:
        InputError: transformers is not installed, or the folder is not complete.
    """
    ids = torch.from_numpy(tokens(pipeline, texts))
    encoder = load(pipeline)
    with torch.no_grad():
        return torch.cat([encoder(part) for part in ids.split(BATCH)]).numpy()


def tokens(pipeline: Path, texts: Sequence[str]) -> NDArray[np.int64]:
    """Ids (N, P) of texts, cut or filled up to the encoder's length.

    Raises:
        InputError: transformers is not installed, or the folder holds no tokenizer.
    """
    where = pipeline / "tokenizer"
    try:
        tokenizer = library().CLIPTokenizer.from_pretrained(where, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where}: holds no CLIP tokenizer that transformers can read ({first_line(error)})"
        ) from error
    made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length(pipeline))
    return np.asarray(made["input_ids"], dtype=np.int64)


def load(pipeline: Path) -> ClipFeatures:
    """The encoder, in float32.

    Raises:
        InputError: transformers is not installed, or the folder holds no encoder.
    """
    where = pipeline / "text_encoder"
    whole = any(where.glob("model.safetensors*")) or any(where.glob("pytorch_model.bin*"))
    settings = {"local_files_only": True, "dtype": torch.float32, "variant": None if whole else HALF}
    found = library()
    bars = found.utils.logging.is_progress_bar_enabled()
    found.utils.logging.disable_progress_bar()
    try:
        encoder = found.CLIPTextModelWithProjection.from_pretrained(where, **settings)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: holds no CLIP encoder that transformers can read ({first_line(error)})") from error
    finally:
        if bars:
            found.utils.logging.enable_progress_bar()
    return ClipFeatures(encoder.eval())


def library() -> Any:
    """The transformers library.

    Raises:
        InputError: it is not installed.
    """
    check_installed()
    import transformers

    return transformers


def graph(pipeline: Path) -> ir.Model:
    """The encoder as ONNX: `ids` (N, P) to `features` (N, P + 1, C).

    Raises:
        InputError: transformers is not installed, or the folder holds no encoder.
    """
    ids = torch.zeros(EXAMPLE_BATCH, length(pipeline), dtype=torch.int64)
    return plain_graph(load(pipeline), ids, "text_encoder", "ids", "features")


def write_graph(pipeline: Path, path: Path) -> None:
    """The encoder's graph on disk.

    Raises:
        InputError: transformers is not installed, the folder holds no encoder, or the file cannot be written.
    """
    made = graph(pipeline)
    try:
        ir.save(made, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error

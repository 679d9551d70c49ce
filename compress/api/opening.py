"""What a program opens: models, engines and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.tokens import TokenSet
    from compress.models.adopted import AdoptedModel
    from compress.models.image_model import ImageModel
    from export.runtime.engine import Engine


def load(
    checkpoint: str | Path,
    *,
    family: str = "",
    tokenizer: str | Path = "",
    config: Mapping[str, Any] | None = None,
    threads: int = 0,
) -> ImageModel | AdoptedModel:
    """The model in a checkpoint, of a shipped name such as ``digits``, or of a recipe's `model`.

    `family` names the checkpoint's format where it is not to be recognised, `tokenizer` the image tokenizer's weights,
    `config` what the files do not say. A decoder that is an ONNX graph runs on `threads` threads, 0 for all cores.

    Raises:
        InputError: it cannot be read; one line says where, what and what would be right.
    """
    from compress.models.candidate import load_model, source_of

    source = source_of(str(checkpoint)).stating(family, str(tokenizer), config or {})
    return load_model(source, str(checkpoint), threads)


def load_engine(
    folder: str | Path,
    *,
    threads: int = 0,
    device: str | None = None,
    provider_options: Mapping[str, str] | None = None,
    require_plan: bool = False,
) -> Engine:
    """The engine in a folder, every file checked against its hash; `threads` 0 uses all cores.

    ONNX Runtime runs it on `device`: ``cpu``, ``cuda``, ``tensorrt-rtx``, ``directml`` or ``webgpu``, with these
    options of its execution provider. None: a plan of TensorRT where this machine runs one, else the CPU, with a
    warning. `require_plan` refuses that: an engine for TensorRT then runs its plan.

    Raises:
        InputError: the folder is damaged or no engine, or the device, or the required plan, does not run here.
    """
    from compress.models.candidate import open_engine

    return open_engine(Path(folder), threads, device, provider_options, require_plan=require_plan)


def load_tokens(source: str | Path) -> TokenSet:
    """The TokenSet in a file (.npz), or the shipped one called ``digits`` or ``emoji``.

    Raises:
        InputError: there is none.
    """
    from compress.data.tokens import open_source

    return open_source(str(source), "tokens")

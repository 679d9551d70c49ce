"""Reading a checkpoint as a model, whichever family it is of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.settings import InputError
from compress.models.checkpoints.catalogue import checked_path, graph_family, torch_family
from compress.models.checkpoints.conversion import read_transformer
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.image_tokenizers import StandIn, tokenizer_of
from compress.models.checkpoints.planning import plan
from compress.models.checkpoints.recognition import nearest_family, recognise, without_prefix
from compress.models.checkpoints.source import CHOICES, OWN, Source, check_own, check_stated, is_own

if TYPE_CHECKING:
    from compress.models.adopted import AdoptedModel
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.image_model import ImageModel
    from export.runtime.sampling import Sampler


def load(source: Source, where: str, stand_in: StandIn | None = None) -> ImageModel:
    """Read a checkpoint with its tokenizer; weights become fp32. `stand_in` makes one where the checkpoint has none.

    Raises:
        InputError: it is of no known family, or incomplete; the first name or shape that does not fit is named.
    """
    path = checked_path(source, where)
    if graph := graph_family(source, path):
        raise InputError(
            f"{where}: {path} is read as an ONNX graph (family {graph.name}) and has no PyTorch form here; "
            "run, verify, bench, generate and tokens take it"
        )
    if source.family == OWN or (not source.family and is_own(path)):
        from compress.models.families import reference

        check_own(source, where)
        return reference.load(path)
    return read(open_checkpoint(source, path), source, where, stand_in)


def load_graph(source: Source, where: str) -> AdoptedModel:
    """Read a checkpoint that is an ONNX graph, or becomes one on the way.

    Raises:
        InputError: it is none, or something is missing from the recipe.
    """
    path = checked_path(source, where)
    family = graph_family(source, path)
    if family is None:
        raise InputError(f"{where}: {path} holds no ONNX graph and no decoder of Hugging Face")
    return family.load_graph(path, source, where)


def open_checkpoint(source: Source, path: Path) -> Checkpoint:
    """The checkpoint's names and shapes; no tensor is read.

    Of the config, `weights` names one of several sets of weights in a file, `prefix` what stands before the names.

    Raises:
        InputError: it cannot be read, or the names of a family stand behind several prefixes.
    """
    from compress.models.checkpoints.checkpoint import Checkpoint

    config = dict(source.config)
    chosen = {key: config.pop(key, None) for key in CHOICES}
    for key, value in chosen.items():
        if value is not None and not (isinstance(value, str) and value):
            raise InputError(f"{path}: config.{key}: {value!r} is not text")
    return without_prefix(Checkpoint.open(path, config, chosen["weights"]), chosen["prefix"])


def read(checkpoint: Checkpoint, source: Source, where: str, stand_in: StandIn | None = None) -> ImageModel:
    """A published checkpoint as a model, its tensors one at a time."""
    from compress.models.image_model import ImageModel

    name = source.family or recognise(checkpoint)
    if name is None:
        from compress.models.tokenizer import formats

        kind = formats.recognise(checkpoint)
        hint = f"it is an image tokenizer ({kind}); give it as tokenizer" if kind else nearest_family(checkpoint)
        raise InputError(f"{where}: {checkpoint.path} is of no known family; {hint}")
    family = torch_family(name)
    check_stated(source, family.keys, f"{where}.config", name)
    config = plan(checkpoint, name).config  # says what is missing before anything is read
    sampler = sampler_of(checkpoint, family)
    tokenizer = tokenizer_of(checkpoint, source, family, config, where, stand_in)
    transformer = read_transformer(checkpoint, family, config, tokenizer)
    return ImageModel(checkpoint.path.stem, name, transformer, tokenizer, sampler)


def sampler_of(checkpoint: Checkpoint, family: TorchFamily) -> Sampler:
    """How the checkpoint draws.

    Raises:
        InputError: what its config states cannot be drawn with.
    """
    try:
        return family.sampler(checkpoint)
    except ValueError as error:
        raise InputError(f"{checkpoint.path}: config: {error}") from error

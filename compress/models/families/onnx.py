"""Any causal decoder in an ONNX file with Hugging Face's inputs and outputs, or an engine folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.settings import InputError
from compress.models import families
from compress.models.adopted import AdoptedModel, adopted, decoder_size, opened, picture_config
from compress.models.checkpoints.containers import PICKLES, SAFETENSORS
from compress.models.checkpoints.family import GraphFamily
from compress.models.checkpoints.layouts import read_config
from compress.models.tokenizer.model import Tokenizer

SUFFIX = ".onnx"
ENGINE = "manifest.json"
# optimum's names, new and old
USUAL = ("model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx", "decoder_model.onnx")


class Onnx(GraphFamily):
    """Any causal decoder in an ONNX file, or an engine folder."""

    def fits(self, path: Path) -> bool:
        """Whether a path is an ONNX file, or a folder with one and without weights of PyTorch.

        Raises:
            InputError: a file of this name cannot be one: every verb asks here before it reads, hashes or waits for it.
        """
        if not path.is_dir():
            if path.suffix == SUFFIX:
                check_plain(path)
            return path.suffix == SUFFIX
        suffixes = {each.suffix for each in path.iterdir()}
        return SUFFIX in suffixes and not suffixes & {SAFETENSORS, *PICKLES}

    def load_graph(self, path: Path, source: families.Source, where: str) -> AdoptedModel:
        """The graph in a file or folder, its ids turned into image tokens as the recipe says.

        Raises:
            InputError: it is no decoder of the known signature, or something is missing from the recipe.
        """
        if path.is_dir() and (path / ENGINE).exists():
            for key in ("tokenizer", "config"):
                if getattr(source, key):
                    raise InputError(f"{where}.{key}: an engine folder brings its own; leave it out")
            return opened(path)
        file = graph_file(path)
        config = picture_config(source.config, f"{where}.config")
        tokenizer = image_tokenizer(source, config.grid, where)
        name = path.stem if path.is_file() else path.name
        return adopted(file, name, self.name, tokenizer, config, f"{where}.config")

    def size(self, path: Path) -> tuple[int, int, dict[str, Any]]:
        """Of the decoder's file, which is read for it."""
        count, size = decoder_size(graph_file(path))
        return count, size, read_config((path if path.is_dir() else path.parent) / "config.json")


def check_plain(path: Path) -> None:
    """Refuse pipes, devices, and files that are empty or larger than ONNX files can be.

    Raises:
        InputError: says which.
    """
    from export.graph.graph_file import GraphFileError, check_file

    try:
        check_file(path)
    except GraphFileError as error:
        raise InputError(f"{path}: {error}") from error


def graph_file(path: Path) -> Path:
    """The decoder among a folder's files.

    Raises:
        InputError: there is none, or several of which none has a usual name.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    usual = [path / name for name in USUAL if path / name in found]
    if not usual and len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise InputError(f"{path}: holds the ONNX files {names}; name the decoder's file as checkpoint")
    return (usual or found)[0]


def image_tokenizer(source: families.Source, grid: tuple[int, int], where: str) -> Tokenizer:
    """The published tokenizer that the source names, or that of a model or tokenizer of this project's format.

    Raises:
        InputError: none is named, or it is of no known format.
    """
    from compress.models.families import reference

    if not source.tokenizer:
        raise InputError(
            f"{where}.tokenizer: a decoder brings no image tokenizer; give its weights, or a model that has the same"
        )
    path = families.locate(source.tokenizer, f"{where}.tokenizer")
    if families.is_own(path):
        return reference.load(path).tokenizer
    return families.read_tokenizer(path, {"grid": list(grid)}, f"{where}.tokenizer")

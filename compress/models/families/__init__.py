"""A family reads one checkpoint format into the one transformer; each file here is one.

A published family has `matches(checkpoint)`, which looks at names only; `architecture(checkpoint)`, the transformer's
config from shapes and config.json; `weights(checkpoint, config)`, the tensors under our names, one at a time; and
`sampler(checkpoint)`, how its authors draw. It may have `tokenizer(checkpoint, config)`, where the checkpoint brings
one, and `from_tokenizer(tokenizer)`, weights of the transformer that lie in the tokenizer's file. Its first docstring
line is what `compress models` prints. The family `reference` is the project's own format. A family in GRAPHS reads
what has no PyTorch form here: it has `fits(path)` and `load_graph(path, source, where)`, which gives an ONNX graph.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.models import zoo
from compress.settings import InputError, nearest, setting, shown
from compress.user_files import user_path

if TYPE_CHECKING:
    from compress.models.adopted import AdoptedModel
    from compress.models.architecture import TransformerConfig
    from compress.models.checkpoint import Checkpoint
    from compress.models.image_model import ImageModel
    from compress.models.tokenizer import Tokenizer
    from compress.models.transformer import TokenTransformer

StandIn = Callable[["TransformerConfig"], "Tokenizer"]
OWN = "reference"
GRAPHS = ("onnx", "huggingface")  # in the order in which they are tried


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    checkpoint: str = setting(doc="a shipped model's name, or the path of a weights file or folder")
    family: str = setting("", doc="the checkpoint's format; recognised from its names if not given")
    tokenizer: str = setting("", doc="the image tokenizer's weights, where the checkpoint does not bring them")
    config: dict[str, Any] = field(
        default_factory=dict, metadata={"doc": "what the weights do not say, or config.json says wrongly"}
    )


def names() -> list[str]:
    """Every family that can be named in a recipe."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def published() -> list[str]:
    """The families that read a published checkpoint into the one transformer."""
    return [name for name in names() if name != OWN and name not in GRAPHS]


def graph_family(source: Source, path: Path) -> str | None:
    """The family that reads a checkpoint as an ONNX graph, if one does; no weight is read."""
    if source.family:
        return source.family if source.family in GRAPHS else None
    return next((name for name in GRAPHS if module_of(name).fits(path)), None) if not is_own(path) else None


def load_graph(source: Source, where: str) -> AdoptedModel:
    """Read a checkpoint that is an ONNX graph, or becomes one on the way.

    Raises:
        InputError: it is none, or something is missing from the recipe.
    """
    path = check(source, where)
    name = graph_family(source, path)
    if name is None:
        raise InputError(f"{where}: {path} holds no ONNX graph and no decoder of Hugging Face")
    graph: AdoptedModel = module_of(name).load_graph(path, source, where)
    return graph


def module_of(name: str) -> Any:
    """The module of a family."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def locate(checkpoint: str, where: str) -> Path:
    """The path of a shipped model's name, or of a file or folder.

    Raises:
        InputError: it is neither.
    """
    if checkpoint in zoo.folders():
        return zoo.ROOT / checkpoint
    path = user_path(checkpoint, where)
    if not path.exists():
        raise InputError(
            f"{where}: {shown(checkpoint)} is neither a file or folder nor a shipped model; "
            f"{nearest(checkpoint, zoo.names())}"
        )
    return path


def is_own(path: Path) -> bool:
    """Whether a folder is in the project's own format, by its config."""
    from compress.models.checkpoint import CONFIG, read_config

    config = read_config(path / CONFIG) if path.is_dir() else {}
    return "format" in config and "transformer" in config


def check(source: Source, where: str) -> Path:
    """The checkpoint's path, if the family and every path that is named exist; nothing is read.

    Raises:
        InputError: names what does not.
    """
    if source.family and source.family not in names():
        raise InputError(f"{where}.family: {shown(source.family)} is not a family; {nearest(source.family, names())}")
    if source.tokenizer:
        locate(source.tokenizer, f"{where}.tokenizer")
    return locate(source.checkpoint, f"{where}.checkpoint")


def load(source: Source, where: str, stand_in: StandIn | None = None) -> ImageModel:
    """Read a checkpoint with its tokenizer; weights become fp32. `stand_in` makes one where the checkpoint has none.

    Raises:
        InputError: it is of no known family, or incomplete; the first name or shape that does not fit is named.
    """
    path = check(source, where)
    if graph := graph_family(source, path):
        raise InputError(
            f"{where}: {path} is read as an ONNX graph (family {graph}) and has no PyTorch form here; "
            "run, verify, bench, generate and tokens take it"
        )
    if source.family == OWN or (not source.family and is_own(path)):
        for key in ("tokenizer", "config"):
            if getattr(source, key):
                raise InputError(f"{where}.{key}: a checkpoint of this project's format brings its own; leave it out")
        return module_of(OWN).load(path)
    return read(open_checkpoint(source, path), source, where, stand_in)


def open_checkpoint(source: Source, path: Path) -> Checkpoint:
    """The checkpoint's names and shapes; no tensor is read."""
    from compress.models.checkpoint import Checkpoint

    return Checkpoint.open(path, source.config)


def recognise(checkpoint: Checkpoint) -> str | None:
    """The published family that these names are of, if any."""
    return next((name for name in published() if module_of(name).matches(checkpoint)), None)


def read(checkpoint: Checkpoint, source: Source, where: str, stand_in: StandIn | None = None) -> ImageModel:
    """A published checkpoint as a model, its tensors one at a time."""
    from compress.models.image_model import ImageModel

    name = source.family or recognise(checkpoint)
    if name is None:
        from compress.models import tokenizers

        kind = tokenizers.recognise(checkpoint)
        hint = f"it is an image tokenizer ({kind}); give it as tokenizer" if kind else nearest_family(checkpoint)
        raise InputError(f"{where}: {checkpoint.path} is of no known family; {hint}")
    module = module_of(name)
    config = module.architecture(checkpoint)
    tokenizer = tokenizer_of(checkpoint, source, module, config, where, stand_in)
    transformer = read_transformer(checkpoint, module, config, tokenizer)
    return ImageModel(checkpoint.path.stem, name, transformer, tokenizer, module.sampler(checkpoint))


def read_transformer(checkpoint: Checkpoint, module: Any, config: Any, tokenizer: Tokenizer | None) -> TokenTransformer:
    """The transformer filled tensor by tensor, so that memory holds little more than one copy of the weights."""
    import torch

    from compress.models.checkpoint import fill
    from compress.models.transformer import TokenTransformer

    with torch.device("meta"):
        transformer = TokenTransformer(config)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield from module.weights(checkpoint, config)
        if hasattr(module, "from_tokenizer"):
            yield from module.from_tokenizer(tokenizer)

    fill(transformer, tensors(), checkpoint.path)
    return transformer.eval()


def tokenizer_of(
    checkpoint: Checkpoint, source: Source, module: Any, config: Any, where: str, stand_in: StandIn | None = None
) -> Tokenizer:
    """The tokenizer that the source names, or that the checkpoint brings.

    Raises:
        InputError: there is none, or it does not have the transformer's tokens.
    """
    from compress.models import tokenizer_folder, tokenizers
    from compress.models.checkpoint import Checkpoint

    grid = {"grid": list(config.grid)}
    if source.tokenizer:
        path = locate(source.tokenizer, f"{where}.tokenizer")
        if hasattr(module, "read_tokenizer"):
            tokenizer = module.read_tokenizer(path, config)
        elif tokenizer_folder.is_one(path):
            tokenizer = tokenizer_folder.load(path)
        else:
            opened = Checkpoint.open(path, grid, weights=None)
            tokenizer = tokenizers.read(opened, opened.config, f"{where}.tokenizer: {path}")
    else:
        brought = module.tokenizer(checkpoint, config) if hasattr(module, "tokenizer") else None
        if brought is None and stand_in is not None and not hasattr(module, "from_tokenizer"):
            return stand_in(config)
        if brought is None:
            raise InputError(f"{where}.tokenizer: this checkpoint brings no image tokenizer; {module.TOKENIZER}")
        tokenizer = brought
    for what in ("vocabulary", "length"):
        found, wanted = getattr(tokenizer, what), getattr(config, what)
        if found != wanted:
            raise InputError(f"{where}.tokenizer: its {what} is {found}; the transformer's is {wanted}")
    return tokenizer


def plan(checkpoint: Checkpoint, module: Any) -> TokenTransformer:
    """The transformer that a checkpoint would become, on the meta device; every name and shape is compared, none read.

    Raises:
        InputError: names the first that does not fit.
    """
    import torch

    from compress.models.checkpoint import fill
    from compress.models.transformer import TokenTransformer

    config = module.architecture(checkpoint)
    with torch.device("meta"):
        transformer = TokenTransformer(config)
    given = [name for name in transformer.state_dict() if name.startswith("scales.")]
    own = transformer.state_dict()
    pairs = [*module.weights(checkpoint.planned(), config), *((name, own[name]) for name in given)]
    fill(transformer, pairs, checkpoint.path)
    return transformer


def nearest_family(checkpoint: Checkpoint) -> str:
    """Which family most of a checkpoint's names fit, and the first name that is missing from it."""
    found = [(name, module_of(name).EXPECTED) for name in published()]
    counts = {name: sum(each in checkpoint for each in expected) for name, expected in found}
    best, expected = max(found, key=lambda each: counts[each[0]] / len(each[1]))
    if not counts[best]:
        return f"none of its {len(checkpoint)} names is one that {', '.join(name for name, _ in found)} has"
    first = next((each for each in expected if each not in checkpoint), None)
    missing = f"'{first}' is missing" if first else "but its names are prefixed or mixed with others"
    return f"the nearest is {best}: {missing}"

"""A family reads one checkpoint format; each file here is one, and the file's name is its name in recipes.

`llamagen.py` defines exactly one subclass of `Family`, called `Llamagen`. A `TorchFamily` reads tensors into the one
transformer; a `GraphFamily` reads what becomes an ONNX graph; `reference` is the project's own format. The first line
of the file is what `compress models` prints. Third parties add theirs through the entry-point group
`compress.families`, whose entries are called like the class that they name.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core import registry
from compress.core.settings import InputError, nearest, setting, shown
from compress.core.user_files import user_path
from compress.models import zoo
from compress.models.checkpoints.conversion import converted, line_of, read_transformer
from compress.models.checkpoints.family import Family, GraphFamily, TorchFamily

if TYPE_CHECKING:
    from compress.models.adopted import AdoptedModel
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.image_model import ImageModel
    from compress.models.tokenizer.model import Tokenizer
    from compress.models.transformer.architecture import TransformerConfig
    from compress.models.transformer.model import TokenTransformer
    from export.runtime.sampling import Sampler

StandIn = Callable[["TransformerConfig"], "Tokenizer"]
OWN = "reference"
CHOICES = ("weights", "prefix")  # keys of a config that say which of a file's tensors to read
ENTRY_POINTS = "compress.families"


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    checkpoint: str = setting(doc="a shipped model's name, or the path of a weights file or folder")
    family: str = setting("", doc="the checkpoint's format; recognised from its names if not given")
    tokenizer: str = setting("", doc="the image tokenizer's weights, where the checkpoint does not bring them")
    config: dict[str, Any] = field(
        default_factory=dict, metadata={"doc": "what the weights do not say, or config.json says wrongly"}
    )

    def stating(self, family: str, tokenizer: str, config: Mapping[str, Any]) -> Source:
        """The same checkpoint, with what is given here before what was said already."""
        return Source(self.checkpoint, family or self.family, tokenizer or self.tokenizer, {**self.config, **config})


def names() -> list[str]:
    """Every family that can be named in a recipe."""
    return registry.names(__path__, ENTRY_POINTS)


def find(name: str) -> Family:
    """The family of this name, which `names` has."""
    return registry.find(name, __name__, ENTRY_POINTS, Family)()


def torch_family(name: str) -> TorchFamily:
    """The family of this name, which is one of `published`."""
    found = find(name)
    assert isinstance(found, TorchFamily)
    return found


def document(name: str) -> str:
    """What the file of a family says of it."""
    return sys.modules[type(find(name)).__module__].__doc__ or ""


def published() -> list[str]:
    """The families that read a published checkpoint into the one transformer."""
    return [name for name in names() if isinstance(find(name), TorchFamily)]


def graph_family(source: Source, path: Path) -> GraphFamily | None:
    """The family that reads a checkpoint as an ONNX graph, if one does; no weight is read."""
    if not source.family and is_own(path):
        return None
    found = [find(source.family)] if source.family else map(find, names())
    graphs = (each for each in found if isinstance(each, GraphFamily))
    return next((each for each in graphs if source.family or each.fits(path)), None)


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


def readers(source: Source, path: Path) -> list[str]:
    """The modules that read a checkpoint and its tokenizer; all families where its names decide which."""
    if source.family == OWN or (not source.family and is_own(path)):
        return [f"{__name__}.{OWN}"]
    family = graph_family(source, path) or (find(source.family) if source.family else None)
    return [type(family).__module__ if family else __name__, "compress.models.tokenizer.formats"]


def locate(checkpoint: str, where: str) -> Path:
    """The path of a shipped model's name, or of a file or folder.

    Raises:
        InputError: it is neither.
    """
    if checkpoint in zoo.folders():
        return zoo.ROOT / checkpoint
    path = user_path(checkpoint, where)
    try:
        found = path.exists()
    except OSError as error:  # a name that is too long, links in a circle
        raise InputError(f"{where}: {shown(checkpoint)}: {error.strerror}") from error
    if not found:
        raise InputError(
            f"{where}: {shown(checkpoint)} is neither a file or folder nor a shipped model; "
            f"{nearest(checkpoint[:200], zoo.names())}"
        )
    return path


def is_own(path: Path) -> bool:
    """Whether a folder is in the project's own format, by its config."""
    from compress.models.checkpoints.layouts import CONFIG, read_config

    config = read_config(path / CONFIG) if path.is_dir() else {}
    return "format" in config and "transformer" in config


def checked_path(source: Source, where: str) -> Path:
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


def check_own(source: Source, where: str) -> None:
    """Refuse what a checkpoint in the project's own format says itself.

    Raises:
        InputError: names it.
    """
    for key in ("tokenizer", "config"):
        if getattr(source, key):
            raise InputError(f"{where}.{key}: a checkpoint of this project's format brings its own; leave it out")


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


def check_stated(source: Source, keys: Sequence[str], where: str, name: str) -> None:
    """Refuse keys of the config that the family or image tokenizer does not read.

    Raises:
        InputError: names the first, and the nearest that is read.
    """
    for key in source.config:
        if key not in (*keys, *CHOICES):
            raise InputError(f"{where}: {name} reads no key {key[:100]!r}; {nearest(key[:100], [*keys, *CHOICES])}")


def without_prefix(checkpoint: Checkpoint, stated: str | None = None) -> Checkpoint:
    """The checkpoint without what stands before its names, if they are a family's or a tokenizer's then.

    Raises:
        InputError: they are behind several prefixes, or not behind the one that is stated.
    """
    if stated is not None:
        return checkpoint.behind(stated)
    if known(checkpoint):
        return checkpoint
    found = [(prefix, inner) for prefix in checkpoint.prefixes() if known(inner := checkpoint.behind(prefix))]
    if len(found) > 1:
        listed = ", ".join(f"'{prefix}'" for prefix, _ in found)
        raise InputError(
            f"{checkpoint.path}: the names of a model stand behind {listed}; state which to read: config.prefix, for "
            f"example  --set prefix={found[0][0]}"
        )
    return found[0][1] if found else checkpoint


def known(checkpoint: Checkpoint) -> bool:
    """Whether the names are a family's or an image tokenizer's."""
    from compress.models.tokenizer import formats

    return (recognise(checkpoint) or formats.recognise(checkpoint)) is not None


def recognise(checkpoint: Checkpoint) -> str | None:
    """The published family that these names are of, if any."""
    return next((name for name in published() if torch_family(name).matches(checkpoint)), None)


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


def tokenizer_of(
    checkpoint: Checkpoint,
    source: Source,
    family: TorchFamily,
    config: TransformerConfig,
    where: str,
    stand_in: StandIn | None = None,
) -> Tokenizer:
    """The tokenizer that the source names, or that the checkpoint brings.

    Raises:
        InputError: there is none, or it does not have the transformer's tokens.
    """
    if source.tokenizer:
        path = locate(source.tokenizer, f"{where}.tokenizer")
        if (own := family.read_tokenizer(path, config)) is not None:
            tokenizer = own
        else:
            tokenizer = read_tokenizer(path, {"grid": list(config.grid)}, f"{where}.tokenizer")
    else:
        brought = family.tokenizer(checkpoint, config)
        if brought is None and stand_in is not None and not family.needs_tokenizer:
            return stand_in(config)
        if brought is None:
            raise InputError(f"{where}.tokenizer: this checkpoint brings no image tokenizer; {family.tokenizer_advice}")
        tokenizer = brought
    for what in ("vocabulary", "length"):
        found, wanted = getattr(tokenizer, what), getattr(config, what)
        if found != wanted:
            raise InputError(f"{where}.tokenizer: its {what} is {found}; the transformer's is {wanted}")
    return tokenizer


def read_tokenizer(path: Path, stated: Mapping[str, Any], where: str) -> Tokenizer:
    """The image tokenizer in a folder or file, in our format or a published one; `stated` is what the user knows of it.

    Raises:
        InputError: it is none, or incomplete.
    """
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.tokenizer import formats, tokenizer_folder

    if tokenizer_folder.is_one(path):
        return tokenizer_folder.load(path)
    opened = without_prefix(Checkpoint.open(path, dict(stated), weights=None))
    return formats.read(opened, opened.config, f"{where}: {path}")


def is_tokenizer(path: Path) -> bool:
    """Whether a path holds an image tokenizer and no transformer, by the names of its tensors."""
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.tokenizer import formats, tokenizer_folder

    if tokenizer_folder.is_one(path) or is_own(path):
        return not is_own(path)
    try:
        opened = without_prefix(Checkpoint.open(path, {}, weights=None))
    except InputError:
        return False  # whoever opens it as a model says what is wrong
    return recognise(opened) is None and formats.recognise(opened) is not None


def plan(checkpoint: Checkpoint, name: str) -> TokenTransformer:
    """The transformer that a checkpoint becomes as this family, on the meta device; nothing is read.

    Raises:
        InputError: a tensor is missing, or the first name or shape that does not fit.
    """
    import torch

    from compress.models.checkpoints.checkpoint import MissingTensorError, Weights
    from compress.models.checkpoints.filling import fill
    from compress.models.transformer.model import TokenTransformer

    family = torch_family(name)
    if not any(each in checkpoint for each in family.expected):
        raise incomplete(checkpoint, family, family.expected[0], None)
    config = None
    try:
        config = family.architecture(checkpoint)
        with torch.device("meta"):
            transformer = TokenTransformer(config)
        weights = Weights(checkpoint.planned())
        # What comes from the tokenizer's file is as it should be.
        given = [pair for pair in transformer.state_dict().items() if pair[0].startswith("scales.")]
        pairs = itertools.chain(converted(weights, family, config), given)
        fill(transformer, pairs, checkpoint.path, lambda: weights.last)
    except MissingTensorError as error:
        raise incomplete(checkpoint, family, error.name, config) from error
    except (ValueError, ArithmeticError, RuntimeError, TypeError) as error:  # numbers that no model has
        raise InputError(f"{checkpoint.path}: {line_of(error)}") from error
    return transformer


def incomplete(checkpoint: Checkpoint, family: TorchFamily, first: str, config: TransformerConfig | None) -> InputError:
    """The complaint that tensors are missing: the first, how many more where the config is known, and why it may be."""
    from compress.models.checkpoints.absent import Lenient

    lenient = Lenient(checkpoint.planned())
    if config is not None:
        with contextlib.suppress(Exception):  # what was found until then
            for _ in family.weights(lenient, config):
                pass
    lenient.missing.update(each for each in family.expected if each not in checkpoint)
    more = len(lenient.missing - {first})
    counted = f" (and {more} more)" if more else ""
    unread = [each for each in checkpoint if each not in lenient.read] if config is not None else []
    why = instead(checkpoint, family, first, unread)
    return InputError(f"{checkpoint.path}: tensor '{first}' is missing{counted}; {why}")


def instead(checkpoint: Checkpoint, family: TorchFamily, first: str, unread: list[str]) -> str:
    """Why a tensor of a family may be missing; `unread` are those that the family does not need."""
    from compress.models.checkpoints.filling import near
    from compress.models.tokenizer import formats

    actual, name = recognise(checkpoint), family.name
    if actual not in (None, name):
        return f"the names are those of {actual}, not of {name}"
    if actual is None and (kind := formats.recognise(checkpoint)):
        return f"the names are those of an image tokenizer ({kind}), not of {name}"
    twin = family.twins.get(first)
    if twin in checkpoint:
        return f"it may be tied to '{twin}', which has its shape: then save that under this name too"
    return near(first, unread)


def nearest_family(checkpoint: Checkpoint) -> str:
    """Which family most of a checkpoint's names fit, and the first name that is missing from it."""
    found = [torch_family(name) for name in published()]
    counts = {family.name: sum(each in checkpoint for each in family.expected) for family in found}
    best = max(found, key=lambda family: counts[family.name] / len(family.expected))
    if not counts[best.name]:
        return f"none of its {len(checkpoint)} names is one that {', '.join(counts)} has"
    first = next((each for each in best.expected if each not in checkpoint), None)
    if first is None:
        return f"the nearest is {best.name}: but its names are prefixed or mixed with others"
    twin = best.twins.get(first)
    tied = f"; it may be tied to '{twin}', which has its shape: then save that under this name too"
    return f"the nearest is {best.name}: '{first}' is missing{tied if twin in checkpoint else ''}"

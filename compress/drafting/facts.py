"""What a draft needs to know of a checkpoint: its names and shapes, its image tokenizer, and no weight beyond."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compress.core.settings import InputError
from compress.models import families
from compress.models.adopted import picture_config
from compress.models.candidate import MANIFEST
from compress.models.checkpoints.family import TorchFamily
from compress.models.families.onnx import image_tokenizer
from compress.models.image_model import ImageModel
from compress.models.tokenizer import formats
from compress.models.tokenizer.model import Tokenizer
from compress.models.transformer.architecture import TransformerConfig
from export.rewrites.fusions.attention import PLAIN_HEAD, ROTARY_HEAD


@dataclass(frozen=True)
class Facts:
    """A checkpoint. `model` is its transformer, usually without its numbers; None of what is read as an ONNX graph."""

    source: families.Source
    path: Path
    name: str  # for files
    family: str
    parameters: int
    tokenizer: Tokenizer
    model: ImageModel | None

    @property
    def config(self) -> TransformerConfig | None:
        """The architecture, where it is known."""
        return None if self.model is None else self.model.transformer.config

    @property
    def conditioned(self) -> bool:
        """Whether something depends on the class or the text alone, which `hoist` computes before the steps."""
        return self.config is not None and self.config.modulation != "none"

    @property
    def convolutional(self) -> bool:
        """Whether the image decoder has convolutions."""
        return any(isinstance(module, nn.Conv2d) for module in self.tokenizer.decoder().modules())

    @property
    def plain(self) -> bool:
        """Whether pictures are drawn token by token from a class or nothing: what all targets fuse alike."""
        config = self.config
        return config is not None and config.drawing.sequential and not config.drawing.scaled and config.text is None

    @property
    def unshared(self) -> str:
        """Why no cache is shared behind `fuse` for ONNX Runtime; empty where one is."""
        config = self.config
        if config is None:
            return "attention of an adopted graph is not fused, so there is no shared cache"
        if config.drawing.masks:
            return "a masked model has no cache of keys and values"
        if config.drawing.scaled:
            return "attention of a next-scale model is not fused, so there is no shared cache"
        if config.text is not None:
            return "attention to a text's padding is not fused, so there is no shared cache"
        multiple = ROTARY_HEAD if config.positions == "rotary-2d" else PLAIN_HEAD
        if config.head_width % multiple:
            return f"heads are {config.head_width} wide; the kernel of a shared cache wants a multiple of {multiple}"
        return ""

    @property
    def text_needs(self) -> str:
        """What each picture of a TokenSet needs beside its tokens, where it is drawn by a text; empty for others."""
        if self.config is None or self.config.text is None:
            return ""
        shape = self.config.text.length, self.config.text.width
        published = self.family in families.published()
        advice = families.torch_family(self.family).text_advice if published else TorchFamily.text_advice
        return f"`features` {shape} of its text, {advice}"

    def words(self) -> str:
        """The checkpoint in one line."""
        said = f"{self.family}, {self.parameters / 1e6:.2f} M parameters"
        if self.config is None:
            return f"{said}, an ONNX graph"
        shape, order = self.config.shape, self.config.order
        by = "by a text" if shape.text else f"by {shape.classes:,} classes" if shape.classes else "unconditional"
        return f"{said}; {order}, {shape.grid[0]}x{shape.grid[1]} tokens of {shape.vocabulary:,}, {by}"


def look(source: families.Source) -> Facts:
    """Recognise a checkpoint, and open its image tokenizer.

    Raises:
        InputError: it is of no known family, no model, or something that a recipe has to say is missing.
    """
    path = families.checked_path(source, "init")
    if (path / MANIFEST).is_file():
        raise InputError(f"{path}: is an engine folder, which is made already; give the checkpoint that it is from")
    if families.is_tokenizer(path):
        raise InputError(f"{path}: is an image tokenizer; give the transformer, and this as --tokenizer")
    name = path.stem or path.resolve().stem
    if families.is_own(path):
        model = families.load(source, "init")
        return Facts(source, path, name, model.family, model.parameters(), model.tokenizer, model)
    if graph := families.graph_family(source, path):
        count, _, _ = graph.size(path)
        config = picture_config(source.config, "init: --set")
        return Facts(source, path, name, graph.name, count, image_tokenizer(source, config.grid, "init"), None)
    return of_published(source, path, name)


def of_published(source: families.Source, path: Path, name: str) -> Facts:
    """A published checkpoint; of its transformer only names and shapes are read."""
    checkpoint = families.open_checkpoint(source, path)
    called = source.family or families.recognise(checkpoint)
    if called is None:
        if kind := formats.recognise(checkpoint):
            raise InputError(f"{path}: is an image tokenizer ({kind}); give the transformer, and this as --tokenizer")
        raise InputError(f"{path}: is of no known family; {families.nearest_family(checkpoint)}")
    family = families.torch_family(called)
    families.check_stated(source, family.keys, f"{path}: --set", called)
    transformer = families.plan(checkpoint, called)
    family.check_parts(checkpoint)
    tokenizer = families.tokenizer_of(checkpoint, source, family, transformer.config, "init")
    model = ImageModel(name, called, transformer, tokenizer, families.sampler_of(checkpoint, family))
    return Facts(source, path, name, called, model.parameters(), tokenizer, model)

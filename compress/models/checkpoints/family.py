"""What a family is: it reads one published checkpoint format, from PyTorch's files or as an ONNX graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.core.registry import dashed

if TYPE_CHECKING:
    from torch import Tensor

    from calibration.arrays import Wanted
    from compress.models.adopted import AdoptedModel
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.checkpoints.golden import Arrays, Golden
    from compress.models.families import Source
    from compress.models.tokenizer.model import Tokenizer
    from compress.models.transformer.architecture import TransformerConfig
    from export.runtime.sampling import Sampler
    from export.runtime.shape import Shape


class Family:
    """A checkpoint format."""

    name: ClassVar[str]  # in recipes, from the class's: `HaltonMaskgit` is `halton-maskgit`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = dashed(cls.__name__)


class TorchFamily(Family, ABC):
    """Reads weights of PyTorch into the one transformer, recognised by their names."""

    expected: ClassVar[tuple[str, ...]]  # names that every checkpoint of the family has
    keys: ClassVar[tuple[str, ...]] = ()  # of config.json, that are read
    tokenizer_advice: ClassVar[str]  # which image tokenizer to give, where the checkpoint brings none
    text_advice: ClassVar[str] = "of the text encoder that it was trained with"  # what makes the features of texts
    twins: ClassVar[Mapping[str, str]] = {}  # names that files may leave out, and the tensor that they are tied to
    needs_tokenizer: ClassVar[bool] = False  # whether `from_tokenizer` gives weights
    golden_arrays: ClassVar[Mapping[str, Wanted]] = {}  # of a golden file besides the logits; without, it has none

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether the names are this family's; nothing is read."""
        return all(name in checkpoint for name in self.expected)

    @abstractmethod
    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """The transformer's config, from shapes and what config.json or the user states; nothing is read.

        Raises:
            InputError: something is not stated, or contradicts the shapes.
        """

    @abstractmethod
    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names, one at a time."""

    @abstractmethod
    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """How its authors draw.

        Raises:
            InputError: config.json asks for what is not known.
        """

    def tokenizer(self, checkpoint: Checkpoint, config: TransformerConfig) -> Tokenizer | None:
        """The image tokenizer that the checkpoint brings, if it does."""
        return None

    def read_tokenizer(self, path: Path, config: TransformerConfig) -> Tokenizer | None:
        """The image tokenizer in a file that only this family knows; None where the file is a usual one."""
        return None

    def check_parts(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that needs more than its weights and an image tokenizer, where that is not there.

        Raises:
            InputError: names what is missing, and how to give it.
        """

    def from_tokenizer(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, Tensor]]:
        """Weights of the transformer that lie in the tokenizer's file."""
        yield from ()

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What is assumed of a checkpoint that does not say it."""
        return []

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """What golden arrays, the outputs of the original, ask of a model of this shape.

        Raises:
            InputError: they are not of such a model.
        """
        raise NotImplementedError(f"{self.name} has golden_arrays, and no golden")


class GraphFamily(Family, ABC):
    """Reads what has no PyTorch form here, as an ONNX graph."""

    @abstractmethod
    def fits(self, path: Path) -> bool:
        """Whether a path is of this family and of no other; no weight is read."""

    @abstractmethod
    def load_graph(self, path: Path, source: Source, where: str) -> AdoptedModel:
        """The graph, its ids turned into image tokens as the recipe says.

        Raises:
            InputError: it is no decoder that can be read, or something is missing from the recipe.
        """

    @abstractmethod
    def size(self, path: Path) -> tuple[int, int, dict[str, Any]]:
        """Weights of the decoder, bytes on disk, and the config beside it."""

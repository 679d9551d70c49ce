"""The config of the image-token transformer: what the families differ in, as numbers and words.

A model is its config and its weights, so a pruned model is only another config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from compress.core.settings import MOST_LAYERS, shown
from compress.models.bounds import HUGE, MOST, MOST_TABLE, check_epsilon, check_grid, check_sizes
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.transformer.uvit import UvitConfig
from export.runtime.orders import DrawingOrder, order_called
from export.runtime.shape import Shape, TextShape

GATED = ("swiglu", "geglu")
STRETCHED = ("l2", "rms-stretch")  # norms of queries and keys behind which each head's queries are stretched
MOST_ROTATED = 1024  # units of a block; a rotation of more costs more than the product that reads it

Norm = Literal["rmsnorm", "layernorm", "rmsnorm-bias", "none"]


@dataclass(frozen=True)
class LayerConfig:
    """Widths of one layer: query heads, key/value heads (equal, or a divisor: GQA) and feed-forward units."""

    heads: int
    kv_heads: int
    ffn: int


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture, in the numbers that a checkpoint's shapes must agree with.

    `classes` 0: unconditional (the null class starts every picture). `text` makes features of a text the prefix; then
    `classes` is 1: class 0 is the text, class 1 none. `lead` start tokens stand before the class. `modulation` shifts,
    scales and gates every branch (AdaLN) by the class, or by class and position; with `shared_modulation` one layer
    makes it for all blocks. `registers` tokens are appended and dropped again; `patch` x `patch` tokens
    become one position and are told apart again before the head (both of masked models). `context` is how many
    positions have an embedding, 0: as many as a picture needs. `outputs` 0: one for each token.

    `uvit` is the stem and the head of a masked model of texts; then modulation is ``text``: every block attends to the
    text too, and its pooled embedding scales and shifts the norms. `class_token` puts the class before the tokens of a
    masked model. `post_norm` normalises after each branch was added (BERT), `embedding_norm` before the first block.
    `text_inner` is the width of what a text becomes beside the residual stream (the hidden layer of a prefix; of a
    `uvit` the states, the vector, and the blocks' attention to them), 0: that of the stream.

    What the pass `rotate` made: the units that ``ffn.down`` reads are rotated in blocks of `down_rotation` (0: not),
    and the channels of the residual stream by the random matrix of the seed `stream_rotation` (0: not).
    """

    vocabulary: int
    classes: int
    grid: tuple[int, int]
    width: int
    head_width: int
    layers: tuple[LayerConfig, ...]
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    activation: Literal["swiglu", "geglu", "gelu", "gelu-tanh", "quick-gelu"] = "swiglu"
    positions: Literal["rotary-2d", "learned", "none"] = "rotary-2d"
    rotary_base: float = 10_000.0
    bias: bool = False
    tied_head: bool = False
    order: str = "causal"
    norm_affine: bool = True
    final_norm: Norm | None = None
    final_affine: bool = True
    head_bias: bool = False
    qk_norm: Literal["none", "rms", "rms-stretch", "layernorm", "l2"] = "none"
    modulation: Literal["none", "class", "class-position", "text"] = "none"
    shared_modulation: bool = False
    rotary_prefix: Literal["identity", "zero"] = "identity"
    lead: int = 0
    registers: int = 0
    patch: int = 1
    context: int = 0
    outputs: int = 0
    text: TextShape | None = None
    scales: tuple[int, ...] = ()
    latent_width: int = 0
    uvit: UvitConfig | None = None
    class_token: bool = False
    post_norm: bool = False
    embedding_norm: bool = False
    text_inner: int = 0
    down_rotation: int = 0
    stream_rotation: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that no model has.

        Raises:
            ValueError: says which.
        """
        check_sizes(self, "vocabulary", "width", "head_width", "patch")
        check_sizes(self, "classes", "lead", "registers", "context", "outputs", "latent_width", "text_inner", least=0)
        check_sizes(self, "stream_rotation", least=0)
        check_sizes(self, "down_rotation", least=0, most=MOST_ROTATED)
        check_grid(self.grid)
        check_epsilon(self.norm_epsilon)
        if not 0 < self.rotary_base < HUGE:
            raise ValueError(f"rotary_base {self.rotary_base}: must be above 0 and below {HUGE:g}")
        if not 1 <= len(self.layers) <= MOST_LAYERS:
            raise ValueError(f"{len(self.layers)} layers: must be 1 to {MOST_LAYERS}")
        if self.stream_rotation and self.width**2 > MOST_TABLE:
            raise ValueError(f"width {self.width}: a stream that is rotated has a width of at most {MOST_TABLE**0.5:g}")
        if self.scales:
            ScalesConfig(self.scales)
        for index, layer in enumerate(self.layers):
            widths = (layer.heads, layer.kv_heads, layer.ffn)
            if min(widths) < 1 or max(widths) > MOST or layer.heads % layer.kv_heads:
                raise ValueError(
                    f"layers[{index}]: heads {shown(layer.heads)}, kv_heads {shown(layer.kv_heads)}, ffn "
                    f"{shown(layer.ffn)}: each must be from 1 to {MOST} and kv_heads must divide heads"
                )
            if self.down_rotation & (self.down_rotation - 1) or (self.down_rotation and layer.ffn % self.down_rotation):
                raise ValueError(
                    f"layers[{index}]: ffn {layer.ffn}, down_rotation {self.down_rotation}: blocks that are rotated "
                    "have a power of two of units and fill the layer"
                )
        if any(side % self.patch for side in self.grid):
            raise ValueError(f"patch {self.patch}: must divide the grid {self.grid}")
        if self.positions == "rotary-2d" and self.head_width % 4:
            raise ValueError(f"head_width {self.head_width}: rotary-2d needs a multiple of 4")
        if self.positions == "rotary-2d" and self.reach * self.head_width > MOST_TABLE:
            raise ValueError(
                f"head_width {self.head_width} with {self.reach} positions: a table of rotary positions has at most "
                f"{MOST_TABLE} numbers"
            )
        if self.lead > 1 or (self.modulation == "class-position" and self.drawing.masks):
            raise ValueError(
                f"lead {self.lead}, modulation {self.modulation}: at most one start token, and masked models are "
                "modulated by class alone"
            )
        if (self.uvit is None) != (self.modulation != "text") or (
            self.uvit and (not self.drawing.masks or self.text is None or self.bias or self.norm != "rmsnorm")
        ):
            raise ValueError(
                f"modulation {self.modulation}, order {self.order}: uvit and modulation text go together, in masked "
                "models of a text with rmsnorm and without biases"
            )
        if self.uvit and self.text and max(self.uvit.text_width, self.uvit.pooled_width) > self.text.width:
            raise ValueError(
                f"uvit: text_width {self.uvit.text_width} and pooled_width {self.uvit.pooled_width} must be at most "
                f"the text's width {self.text.width}"
            )
        if self.uvit and (self.inner % self.uvit.cross_heads or (self.uvit.halved and any(n % 2 for n in self.grid))):
            raise ValueError(
                f"uvit: cross_heads {self.uvit.cross_heads} must divide the width {self.inner}, and a grid "
                f"{self.grid} that is halved must have even sides"
            )
        if self.positions == "rotary-2d" and not self.drawing.sequential:
            raise ValueError(f"order {self.order}: only causal models have rotary-2d positions here; use learned")
        if (self.class_token and (not self.drawing.masks or self.patch > 1 or self.modulation != "none")) or (
            self.post_norm and self.modulation != "none"
        ):
            raise ValueError(
                f"class_token {self.class_token}, post_norm {self.post_norm}, order {self.order}, patch {self.patch}, "
                f"modulation {self.modulation}: a class token is of masked models without patches, and neither goes "
                "with modulation"
            )
        if self.embedding_norm and self.positions != "learned":
            raise ValueError(f"embedding_norm with positions {self.positions}: only learned positions are normalised")
        if self.text_inner and self.text is None:
            raise ValueError(f"text_inner {self.text_inner}: only a model of a text has layers of a text")
        if self.positions == "none" and self.uvit is None:
            raise ValueError("positions none: only a U-ViT, whose convolutions know their neighbours, does without")
        if self.drawing.scaled and (
            not self.scales or self.scales[0] != 1 or self.latent_width < 1 or (self.scales[-1],) * 2 != self.grid
        ):
            raise ValueError(
                f"scales {self.scales}, latent_width {self.latent_width}, grid {self.grid}: next-scale needs sides "
                "that begin with 1 and end with the grid's, and the width of the latents"
            )

    @property
    def drawing(self) -> DrawingOrder:
        """The order of drawing, with all that depends on it."""
        return order_called(self.order)

    @property
    def shape(self) -> Shape:
        """What drawing needs to know."""
        return Shape(
            order=self.order,
            vocabulary=self.vocabulary,
            classes=self.classes,
            grid=self.grid,
            lead=self.lead,
            outputs=self.outputs,
            modulated=self.modulation != "none",
            text=self.text,
            scales=self.scales,
            latent_width=self.latent_width,
        )

    @property
    def length(self) -> int:
        """Tokens of one picture, over all scales."""
        return self.shape.length

    @property
    def prefix(self) -> int:
        """Positions up to the one that predicts the first token, of a causal model."""
        return self.shape.prefix

    @property
    def reach(self) -> int:
        """Positions that a sequence may have."""
        return max(self.context, self.shape.reach + self.class_token)

    @property
    def mask_token(self) -> int:
        """The id of a masked position."""
        return self.shape.mask_token

    @property
    def first_class(self) -> int:
        """The id of class 0."""
        return self.shape.first_class

    @property
    def null_class(self) -> int:
        """The class that stands for no class (the unconditional branch of guidance)."""
        return self.shape.null_class

    @property
    def inner(self) -> int:
        """Width of what a text becomes beside the residual stream."""
        return self.text_inner or self.width

    @property
    def predicted(self) -> int:
        """Logits of a position."""
        return self.shape.predicted

    def with_layers(self, layers: Sequence[LayerConfig]) -> TransformerConfig:
        """The same architecture with other widths or fewer layers."""
        return replace(self, layers=tuple(layers))

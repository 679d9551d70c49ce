"""The table of embeddings, in float, in 8 or in 4 bits, and the head that is tied to it.

Letters: B batch, S positions, V rows of the table, E their width, G groups of a row that share a scale, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.ranges import one_thread, weight_grid, weight_scales
from compress.models.transformer.quantized import (
    DEFAULT_BLOCK,
    SMALLEST_GROUP,
    LinearQuantization,
    Quantized,
    dequantize_weight,
    quantize_dynamic,
    quantize_weight,
    spread,
)


class Embedding(nn.Embedding):
    """A table of embeddings in float."""

    def logits(self, x: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
        """What a head that is tied to the first rows makes of x (B, S, E): (B, S, O)."""
        return functional.linear(x, self.weight[:outputs], bias)


@dataclass(frozen=True)
class EmbeddingQuantization:
    """How a table is kept: in int8 or int4 with a scale for each `group` numbers of a row (0: the row), or in fp16.

    Codes that are not `symmetric` have a zero point beside each scale. A tied head reads the same codes; `dynamic`
    rounds its inputs to int8 as they come, in blocks of `group`.
    """

    weights: Literal["int8", "int4", "fp16"]
    group: int = 0
    dynamic: bool = False
    symmetric: bool = True

    @property
    def coded(self) -> bool:
        """Whether rows are codes with scales."""
        return self.weights != "fp16"

    @property
    def linear(self) -> LinearQuantization:
        """The formats of a tied head, whose outputs are the rows."""
        weights: Literal["int8", "int4"] = "int4" if self.weights == "int4" else "int8"
        rounded: Literal["int8", "none"] = "int8" if self.dynamic else "none"
        return LinearQuantization(weights, rounded, self.dynamic, self.group, symmetric=self.symmetric)


def group_of(width: int, most: int = DEFAULT_BLOCK) -> int:
    """The largest power of two up to `most` that divides rows of this width, so that kernels of a head take them.

    0 where that is below `SMALLEST_GROUP`. A head that rounds its inputs reads them in blocks of a power of two.
    """
    group = most
    while width % group:
        group //= 2
    return group if group >= SMALLEST_GROUP else 0


class QuantizedEmbedding(Quantized):
    """A table of embeddings in int8, int4 or fp16; what it gives is float32."""

    weight_scale: Tensor | None
    weight_zero: Tensor | None

    def __init__(self, rows: int, width: int, spec: EmbeddingQuantization, device: torch.device | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.spec = rows, width, spec
        kept = torch.int8 if spec.coded else torch.float16
        scale = torch.ones(rows, spec.linear.groups(width), device=device) if spec.coded else None
        zero = None if scale is None or spec.symmetric else torch.zeros_like(scale, dtype=torch.int8)
        self.register_buffer("weight", torch.zeros(rows, width, dtype=kept, device=device))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero", zero)
        self.register_buffer("bias", None)

    @classmethod
    def of(cls, table: nn.Embedding, spec: EmbeddingQuantization) -> QuantizedEmbedding:
        """A float table, each number rounded to the nearest code; scales are those of least squared error."""
        module, weight = cls(table.num_embeddings, table.embedding_dim, spec), table.weight.detach()
        if module.weight_scale is None:
            module.weight.copy_(weight)
            return module
        linear = spec.linear
        with one_thread():
            if module.weight_zero is None:
                scale = weight_scales(weight, spec.group, linear.largest, linear.rounded, "mse", 0)
            else:
                scale, zero = weight_grid(weight, spec.group, (linear.smallest, linear.largest), "mse", 0)
                module.weight_zero.copy_(zero)
            module.weight_scale.copy_(scale)
            module.weight.copy_(quantize_weight(weight, scale, linear, module.weight_zero))
        return module

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table (..., E) as they act."""
        codes = functional.embedding(ids, self.weight)
        if self.weight_scale is None:
            return codes.float()
        made = codes.float()
        if self.weight_zero is not None:
            made = made - spread(functional.embedding(ids, self.weight_zero), self.spec.group, self.embedding_dim)
        scale = functional.embedding(ids, self.weight_scale)
        return made * spread(scale, self.spec.group, self.embedding_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., E) of ids (...)."""
        if self.weight_scale is None or not torch.compiler.is_exporting():
            return self.rows(ids)
        made: Tensor = torch.onnx.ops.symbolic(
            "compress::QuantizedEmbedding",
            [ids, *self.stored()],
            {"group": self.spec.group, "weights": self.spec.weights},
            dtype=torch.float32,
            shape=(*ids.shape, self.embedding_dim),
            version=1,
        )
        return made

    def logits(self, x: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
        """What a head that is tied to the first rows makes of x (B, S, E): (B, S, O)."""
        assert self.weight_scale is not None, "only tables of codes are shared with a head"
        linear = self.spec.linear
        if torch.compiler.is_exporting():
            y: Tensor = torch.onnx.ops.symbolic(
                "compress::TiedHead",
                [x, *self.stored()],
                {
                    "outputs": outputs,
                    "dynamic": int(linear.dynamic),
                    "group": linear.group,
                    "weights": linear.weights,
                },
                dtype=torch.float32,
                shape=(*x.shape[:-1], outputs),
                version=1,
            )
            return y if bias is None else y + bias
        if linear.dynamic:
            x = quantize_dynamic(x, linear.group or DEFAULT_BLOCK)
        rows = dequantize_weight(self.weight, self.weight_scale, linear, self.weight_zero)[:outputs]
        return functional.linear(x, rows, bias)

    def stored(self) -> list[Tensor]:
        """Codes, scales and, where there are any, zero points, as nodes of a graph read them."""
        return [each for each in (self.weight, self.weight_scale, self.weight_zero) if each is not None]

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.spec}"


def quantized_embedding(transformer: nn.Module) -> EmbeddingQuantization | None:
    """How a transformer's table is kept, where it is quantized."""
    table = transformer.get_submodule("embedding")
    return table.spec if isinstance(table, QuantizedEmbedding) else None


def install_embedding(transformer: nn.Module, spec: EmbeddingQuantization) -> None:
    """Put an empty quantized table in place of the float one, so that a quantized state dict can be loaded."""
    table = transformer.get_submodule("embedding")
    assert isinstance(table, nn.Embedding)
    rows, width = table.weight.shape
    transformer.embedding = QuantizedEmbedding(rows, width, spec, table.weight.device)

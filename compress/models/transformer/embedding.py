"""The table of embeddings, in float or in 8 bits, and the head that is tied to it.

Letters: B batch, S positions, V rows of the table, E their width, G groups of a row that share a scale, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.ranges import one_thread, weight_scales
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
    """How a table is kept: in int8 with a scale for each `group` numbers of a row (0: the whole row), or in fp16.

    A tied head reads int8 codes too; `dynamic` rounds its inputs to int8 as they come, in blocks of `group`.
    """

    weights: Literal["int8", "fp16"]
    group: int = 0
    dynamic: bool = False

    @property
    def linear(self) -> LinearQuantization:
        """The formats of a tied head, whose outputs are the rows."""
        return LinearQuantization("int8", "int8" if self.dynamic else "none", dynamic=self.dynamic, group=self.group)


def group_of(width: int) -> int:
    """The largest power of two up to 128 that divides rows of this width, so that kernels of a head take them; else 0.

    A head that rounds its inputs reads them in blocks of a power of two.
    """
    group = DEFAULT_BLOCK
    while width % group:
        group //= 2
    return group if group >= SMALLEST_GROUP else 0


class QuantizedEmbedding(Quantized):
    """A table of embeddings in int8 or fp16; what it gives is float32."""

    weight_scale: Tensor | None

    def __init__(self, rows: int, width: int, spec: EmbeddingQuantization, device: torch.device | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.spec = rows, width, spec
        kept = torch.int8 if spec.weights == "int8" else torch.float16
        scale = torch.ones(rows, spec.linear.groups(width), device=device) if spec.weights == "int8" else None
        self.register_buffer("weight", torch.zeros(rows, width, dtype=kept, device=device))
        self.register_buffer("weight_scale", scale)
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
            scale = weight_scales(weight, spec.group, linear.largest, linear.rounded, "mse", 0)
            module.weight_scale.copy_(scale)
            module.weight.copy_(quantize_weight(weight, scale, linear))
        return module

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table (..., E) as they act."""
        codes = functional.embedding(ids, self.weight)
        if self.weight_scale is None:
            return codes.float()
        scale = functional.embedding(ids, self.weight_scale)
        return codes.float() * spread(scale, self.spec.group, self.embedding_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., E) of ids (...)."""
        if self.weight_scale is None or not torch.compiler.is_exporting():
            return self.rows(ids)
        made: Tensor = torch.onnx.ops.symbolic(
            "compress::QuantizedEmbedding",
            [ids, self.weight, self.weight_scale],
            {"group": self.spec.group},
            dtype=torch.float32,
            shape=(*ids.shape, self.embedding_dim),
            version=1,
        )
        return made

    def logits(self, x: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
        """What a head that is tied to the first rows makes of x (B, S, E): (B, S, O)."""
        assert self.weight_scale is not None, "only int8 tables are shared with a head"
        linear = self.spec.linear
        if torch.compiler.is_exporting():
            y: Tensor = torch.onnx.ops.symbolic(
                "compress::TiedHead",
                [x, self.weight, self.weight_scale],
                {"outputs": outputs, "dynamic": int(linear.dynamic), "group": linear.group},
                dtype=torch.float32,
                shape=(*x.shape[:-1], outputs),
                version=1,
            )
            return y if bias is None else y + bias
        if linear.dynamic:
            x = quantize_dynamic(x, linear.group or DEFAULT_BLOCK)
        return functional.linear(x, dequantize_weight(self.weight, self.weight_scale, linear)[:outputs], bias)

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

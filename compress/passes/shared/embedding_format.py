"""How `quantize` keeps the table of embeddings, and a head that is tied to it."""

from __future__ import annotations

from typing import Literal

from compress.models.transformer.embedding import EmbeddingQuantization, group_of
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import DEFAULT_BLOCK
from compress.passes import PassError

Embedding = Literal["none", "int8", "int4", "fp16"]


def embedding_format(
    transformer: TokenTransformer, embedding: Embedding, head: str, dynamic: bool, *, group: int, symmetric: bool
) -> EmbeddingQuantization | None:
    """How a table is kept, by what `quantize` is told; None: in float.

    Four bits have the groups and zero points of the weights, as far as groups divide rows.

    Raises:
        PassError: a tied head cannot share it, or rows of 4 bits fill no whole bytes.
    """
    tied, width = transformer.config.tied_head, transformer.embedding.embedding_dim
    if tied and embedding == "fp16":
        raise PassError("embedding: fp16, but the head is tied to it; use int8, int4 or none")
    if tied and embedding == "none" and head in ("int8", "same"):
        raise PassError(
            f"head: {head}, but the head is tied to the embedding; use embedding: int8 or int4, which both share"
        )
    if embedding == "none":
        return None
    rounds = tied and head == "same" and dynamic
    if embedding == "int4":
        if width % 2:
            raise PassError(f"embedding: int4, but rows of {width} numbers fill no whole bytes; use int8")
        own = group_of(width, group or DEFAULT_BLOCK) if tied or group else 0
        return EmbeddingQuantization("int4", own, rounds, symmetric)
    return EmbeddingQuantization(embedding, group_of(width) if tied and embedding == "int8" else 0, rounds)

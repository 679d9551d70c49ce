"""A family reads one checkpoint format; each file here is one, and the file's name is its name in recipes.

`llamagen.py` defines exactly one subclass of `Family`, called `Llamagen`. A `TorchFamily` reads tensors into the one
transformer; a `GraphFamily` reads what becomes an ONNX graph; `reference` is the project's own format. The first line
of the file is what `compress models` prints. Third parties add theirs through the entry-point group
`compress.families`, whose entries are called like the class that they name.
"""

from __future__ import annotations

from compress.models.checkpoints.catalogue import (
    checked_path,
    document,
    find,
    graph_family,
    names,
    published,
    readers,
    torch_family,
)
from compress.models.checkpoints.image_tokenizers import is_tokenizer, read_tokenizer, tokenizer_of
from compress.models.checkpoints.opening import load, load_graph, open_checkpoint, read, sampler_of
from compress.models.checkpoints.planning import plan
from compress.models.checkpoints.recognition import nearest_family, recognise, without_prefix
from compress.models.checkpoints.source import OWN, Source, check_own, check_stated, is_own, locate

__all__ = [
    "OWN",
    "Source",
    "check_own",
    "check_stated",
    "checked_path",
    "document",
    "find",
    "graph_family",
    "is_own",
    "is_tokenizer",
    "load",
    "load_graph",
    "locate",
    "names",
    "nearest_family",
    "open_checkpoint",
    "plan",
    "published",
    "read",
    "read_tokenizer",
    "readers",
    "recognise",
    "sampler_of",
    "tokenizer_of",
    "torch_family",
    "without_prefix",
]

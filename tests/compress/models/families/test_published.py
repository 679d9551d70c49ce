"""Published names and shapes at published sizes; what does not fit is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.core.settings import InputError
from compress.models import families
from compress.models.checkpoints.checkpoint import Planned
from compress.models.families import Source
from compress.models.transformer.quantized import parameter_count

DATA = Path(__file__).parents[3] / "data" / "published"
FAMILIES = {
    "halton-maskgit": "halton-maskgit",
    "imagegpt": "imagegpt",
    "llamagen-c2i": "llamagen",
    "llamagen-t2i": "llamagen",
    "rar": "rar",
    "taming-mingpt": "taming",
    "var": "var",
}
PREFIX = {"taming-mingpt": "transformer."}
SIZES = [
    (name, size, found) for name in FAMILIES for size, found in json.loads((DATA / f"{name}.json").read_text()).items()
]
# Tensors that are no weights of the model: masks, and numbers of levels.
TABLES = (".attn.mask", "lvl_1L", "attn_bias_for_masking", "zero_k_bias")


@dataclass(frozen=True)
class Shaped:
    """A tensor that is nowhere."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def checkpoint_of(name: str, shapes: dict[str, Any], config: dict[str, Any]) -> Planned:
    """A checkpoint of these names and shapes."""
    prefix = PREFIX.get(name, "")
    kinds = {"lvl_1L": torch.int64}
    entries = {prefix + each: Shaped(tuple(shape), kinds.get(each, torch.float32)) for each, shape in shapes.items()}
    return Planned(Path(f"{name}.pt"), (), config, entries)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size", "found"), SIZES, ids=[f"{name} {size}" for name, size, _ in SIZES])
def test_every_published_size_is_recognised_and_every_tensor_has_a_place(
    name: str, size: str, found: dict[str, Any]
) -> None:
    checkpoint = checkpoint_of(name, found["state_dict"], found.get("config", {}))
    assert families.recognise(checkpoint) == FAMILIES[name]
    read: set[str] = set()

    class Watched(Planned):
        def __getitem__(self, each: str) -> torch.Tensor:
            read.add(each)
            return super().__getitem__(each)

        def planned(self) -> Planned:
            return self

    watched = Watched(checkpoint.path, (), checkpoint.config, checkpoint._entries)
    transformer = families.plan(watched, FAMILIES[name])
    left = {each for each in checkpoint if each not in read and not each.endswith(TABLES)}
    assert left == set()
    counted = sum(torch.Size(shape).numel() for each, shape in found["state_dict"].items() if not each.endswith(TABLES))
    if transformer.config.tied_head:
        counted -= torch.Size(found["state_dict"]["head.weight"]).numel()  # the same tensor under a second name
    # A family may join tables, and leave positions that no picture has: 2 % at most.
    assert parameter_count(transformer) == pytest.approx(counted, rel=0.02)


def test_a_missing_tensor_and_another_shape_are_named() -> None:
    found = json.loads((DATA / "llamagen-c2i.json").read_text())["GPT-B"]
    shapes = dict(found["state_dict"])
    del shapes["layers.3.attention.wo.weight"]
    with pytest.raises((InputError, KeyError), match=r"layers\.3\.attention\.wo\.weight"):
        families.plan(checkpoint_of("llamagen-c2i", shapes, {}), "llamagen")
    shapes = {**found["state_dict"], "norm.weight": [700]}
    with pytest.raises(InputError, match=r"'norm.weight' is \(700,\); its config says \(768,\)"):
        families.plan(checkpoint_of("llamagen-c2i", shapes, {}), "llamagen")


def test_an_unknown_checkpoint_is_told_the_nearest_family_and_what_is_missing() -> None:
    found = json.loads((DATA / "rar.json").read_text())["RAR-B"]
    shapes = dict(found["state_dict"])
    del shapes["timesteps_embeddings"]
    checkpoint = checkpoint_of("rar", shapes, {})
    with pytest.raises(InputError, match="the nearest is rar: 'timesteps_embeddings' is missing"):
        families.read(checkpoint, Source("rar.pt"), "rar.pt")
    nothing = checkpoint_of("rar", {"a.weight": [3]}, {})
    with pytest.raises(InputError, match="none of its 1 names"):
        families.read(nothing, Source("rar.pt"), "rar.pt")


def test_a_transformer_without_its_image_tokenizer_says_which_file_it_needs() -> None:
    golden = DATA.parent / "golden"
    with pytest.raises(InputError, match="brings no image tokenizer; give vq_ds16_c2i"):
        families.load(Source(str(golden / "llamagen-c2i")), "model")
    with pytest.raises(InputError, match="its vocabulary is 64; the transformer's is 96"):
        families.load(Source(str(golden / "llamagen-c2i"), tokenizer=str(golden / "llamagen-vq")), "model")
    with pytest.raises(InputError, match="it is an image tokenizer"):
        families.load(Source(str(golden / "llamagen-vq")), "model")


def test_heads_that_weights_do_not_say_are_asked_for(tmp_path: Path) -> None:
    golden = DATA.parent / "golden" / "llamagen-c2i"
    (tmp_path / "c2i.pt").write_bytes((golden / "checkpoint.pt").read_bytes())
    with pytest.raises(InputError, match="state config"):
        families.load(Source(str(tmp_path / "c2i.pt")), "model")

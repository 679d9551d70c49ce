"""Every tensor of every family and image tokenizer: missing, of another shape or format, or not finite, it is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from compress.core.settings import InputError
from compress.models import families
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.conversion import read_transformer
from compress.models.families import Source
from compress.models.tokenizer import formats
from compress.models.tokenizer.layout import Tensors

GOLDEN = Path(__file__).parents[3] / "data" / "golden"
FORMATS = sorted(path.name for path in GOLDEN.iterdir())
WHOLE = {name: Checkpoint.open(GOLDEN / name) for name in FORMATS}
FAMILY = {name: families.recognise(checkpoint) for name, checkpoint in WHOLE.items()}
# What training leaves in a file and no model needs, and a head that is tied.
SURPLUS = (
    ".attn.mask", "lvl_1L", "attn_bias_for_masking", "quantize.codebook_used", "quantize.ema_vocab_hit_SV",
    "quantize.embed_prob",
)  # fmt: skip
TIED = [("halton-maskgit", "head.weight")]
NAMES = [(each, name) for each in FORMATS for name in WHOLE[each] if not name.endswith(SURPLUS)]
DTYPES = (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)


def sampled(name: str, first: int, every: int) -> list[str]:
    """Every so many of the tensors that are needed."""
    return [tensor for each, tensor in NAMES if each == name and (each, tensor) not in TIED][first::every]


@dataclass(frozen=True)
class Fake:
    """A tensor of zeros, or of another number."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    number: float = 0

    def read(self) -> torch.Tensor:
        return torch.full(self.shape, self.number, dtype=self.dtype)


def changed(name: str, **tensors: Fake) -> Checkpoint:
    """A golden checkpoint with other tensors."""
    whole = WHOLE[name]
    return Checkpoint(whole.path, whole.weights, whole.config, {**whole._entries, **tensors})  # type: ignore[dict-item]


def complaint(name: str, checkpoint: Checkpoint, *, planned: bool = True) -> str:
    """What is said of a checkpoint, in one line."""
    with pytest.raises(InputError) as caught:
        read(name, checkpoint, planned=planned)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read(name: str, checkpoint: Checkpoint, *, planned: bool) -> None:
    """Read a checkpoint as what the golden one is; only names and shapes if planned."""
    family = FAMILY[name]
    if family is None:
        module = formats.module_of(str(formats.recognise(WHOLE[name])))
        module.read(checkpoint.planned() if planned else checkpoint, checkpoint.config)
        return
    config = families.plan(checkpoint, family).config
    if not planned:
        read_transformer(checkpoint, families.torch_family(family), config, None)


@pytest.mark.parametrize(("name", "tensor"), NAMES)
def test_a_missing_tensor_is_named(name: str, tensor: str) -> None:
    part = WHOLE[name].renamed(lambda each: None if each == tensor else each)
    if (name, tensor) in TIED:
        families.plan(part, "halton-maskgit")
        return
    assert f"tensor '{tensor}' is missing" in complaint(name, part)


def shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes that a tensor must not have."""
    yield ()
    yield (0, *shape[1:])
    yield (*shape, 2)
    if shape[::-1] != shape:
        yield shape[::-1]


@pytest.mark.parametrize("name", FORMATS)
def test_another_shape_is_refused(name: str) -> None:
    for tensor in sampled(name, 0, 5 if FAMILY[name] else 41):
        if tensor.endswith(("channelwise_norm.gamma", "channelwise_norm.beta")):
            continue
        for shape in shapes(WHOLE[name].shape(tensor)):
            complaint(name, changed(name, **{tensor: Fake(shape)}))


@pytest.mark.parametrize("index", range(len(DTYPES)))
@pytest.mark.parametrize("name", FORMATS)
def test_other_number_formats_are_refused(name: str, index: int) -> None:
    dtype = DTYPES[index]
    for tensor in sampled(name, index, 11 if FAMILY[name] else 60):
        wrong = changed(name, **{tensor: Fake(WHOLE[name].shape(tensor), dtype)})
        said = complaint(name, wrong)
        assert f"tensor '{tensor}' is {str(dtype).removeprefix('torch.')}; weights are bfloat16, float16" in said


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [name for name in FORMATS if FAMILY[name] not in (None, "amused")])
def test_numbers_that_are_not_finite_are_refused(name: str, number: float) -> None:
    names = [tensor for tensor in WHOLE[name] if not tensor.endswith(SURPLUS)]
    for tensor in {names[0], names[len(names) // 2], names[-1]}:
        wrong = changed(name, **{tensor: Fake(WHOLE[name].shape(tensor), number=number)})
        assert f"tensor '{tensor}' holds " in complaint(name, wrong, planned=False)


def test_all_that_is_missing_is_counted() -> None:
    gone = ("layers.1.ffn_norm.weight", "layers.2.ffn_norm.weight", "norm.weight")
    part = WHOLE["llamagen-c2i"].renamed(lambda each: None if each in gone else each)
    said = complaint("llamagen-c2i", part)
    assert said.endswith(f"tensor '{gone[0]}' is missing (and 2 more); the file ends early or is of another model")


def test_a_renamed_tensor_is_said() -> None:
    part = WHOLE["llamagen-c2i"].renamed(lambda each: each.replace("layers.1.ffn_norm", "layers.1.ffn_nrom"))
    assert complaint("llamagen-c2i", part).endswith("; it holds 'layers.1.ffn_nrom.weight' instead")


@pytest.mark.parametrize(
    ("name", "head", "twin"),
    [
        ("llamagen-c2i", "output.weight", "tok_embeddings.weight"),
        ("taming-mingpt", "transformer.head.weight", "transformer.tok_emb.weight"),
    ],
)
def test_a_missing_head_of_the_embeddings_shape_may_be_tied(name: str, head: str, twin: str) -> None:
    part = WHOLE[name].renamed(lambda each: None if each == head else each)
    assert f"it may be tied to '{twin}', which has its shape" in complaint(name, part)
    if name == "taming-mingpt":
        with pytest.raises(InputError, match=f"nearest is taming: '{head}' is missing; it may be tied to '{twin}'"):
            families.read(part, Source("t.ckpt"), "t.ckpt")


@pytest.mark.parametrize("family", families.published())
def test_a_checkpoint_read_as_another_family_says_whose_names_it_has(family: str) -> None:
    for name in ("llamagen-c2i", "rar"):
        if FAMILY[name] == family:
            continue
        with pytest.raises(InputError) as caught:
            families.plan(WHOLE[name], family)
        assert f"the names are those of {FAMILY[name]}, not of {family}" in str(caught.value)
    with pytest.raises(InputError, match=r"the names are those of an image tokenizer \(llamagen-vq\), not of"):
        families.plan(WHOLE["llamagen-vq"], family)


def test_a_layer_that_is_missing_as_a_whole_is_said() -> None:
    def without(index: int) -> Checkpoint:
        return WHOLE["llamagen-c2i"].renamed(lambda each: None if each.startswith(f"layers.{index}.") else each)

    said = complaint("llamagen-c2i", without(1))
    assert said.endswith(
        "no tensor begins with 'layers.1.', but others with 'layers.2.'; the file is cut, or a part of the checkpoint"
    )
    assert complaint("llamagen-c2i", without(2)).endswith(
        "config.n_layer: 3 layers; the file holds 2, and no tensor 'layers.2.*'"
    )


def test_a_scalar_is_no_fused_product() -> None:
    wrong = changed("var-vqvae", **{"decoder.up.4.attn.1.qkv.weight": Fake(())})
    assert "'decoder.up.4.attn.1.qkv.weight' is (); a model's has 1 or 2 or 4 axes" in complaint("var-vqvae", wrong)


def test_tokenizers_count_no_further_than_their_tensors() -> None:
    with pytest.raises(InputError, match=r"form: a tensor's name begins with 'a.99999.'"):
        Tensors({"a.99999.weight": torch.zeros(1)}, "form").count("a.{}")

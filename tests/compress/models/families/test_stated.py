"""What a user or config.json states is checked, and what authors publish of drawing is what is drawn with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress.core.settings import InputError
from compress.models import families
from compress.models.checkpoints.checkpoint import Checkpoint, Planned
from compress.models.checkpoints.conversion import read_transformer
from compress.models.families import Source
from compress.models.tokenizer import formats
from compress.verifying.inspection import inspect
from export.runtime.sampling import Sampler

DATA = Path(__file__).parents[3] / "data"
GOLDEN = DATA / "golden"
FAMILY = {
    "amused": "amused", "halton-maskgit": "halton-maskgit", "imagegpt": "imagegpt", "llamagen-c2i": "llamagen",
    "rar": "rar", "taming-mingpt": "taming", "titok-bert": "titok-bert", "var": "var",
}  # fmt: skip
WRONG = [None, "x", 1.5, True, 0, -1, 10**20, [1], {"a": 1}, float("nan"), 10**400, "9" * 1000]


def complaint(source: Source) -> str:
    """What inspecting says, in one line that is not long."""
    with pytest.raises(InputError) as caught:
        inspect(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("name", FAMILY)
def test_values_of_wrong_types_or_sizes_are_refused_or_read_but_never_crash(name: str) -> None:
    family = families.torch_family(FAMILY[name])
    whole = Checkpoint.open(GOLDEN / name)
    said: list[str] = []
    for key in family.keys:
        for value in WRONG:
            changed = whole.stating({**whole.config, key: value})
            try:
                families.plan(changed, FAMILY[name])
                families.sampler_of(changed, family)
            except InputError as error:
                said.append(str(error))
    assert len(said) > 5 * len(family.keys)
    assert max(map(len, said)) < 500


@pytest.mark.parametrize("name", ["llamagen-vq", "rar-vqgan", "titok", "var-vqvae"])
def test_values_of_tokenizers_are_refused_or_read_but_never_crash(name: str) -> None:
    whole = Checkpoint.open(GOLDEN / name)
    module = formats.module_of(str(formats.recognise(whole)))
    said: list[str] = []
    for key in module.KEYS[:3]:
        for value in WRONG[::2]:
            try:
                module.read(whole.planned(), {**whole.config, key: value})
            except InputError as error:
                said.append(str(error))
    assert max(map(len, said)) < 500


@pytest.mark.parametrize(
    ("name", "stated", "said"),
    [
        ("llamagen-c2i", {"n_haed": 2}, "llamagen reads no key 'n_haed'; did you mean 'n_head'?"),
        ("llamagen-c2i", {"n_head": 10**20}, "config.n_head: 100000000000000000000 is more than 2147483647"),
        ("llamagen-c2i", {"n_head": 0}, "config.n_head: 0 is not a whole number of at least 1"),
        ("llamagen-c2i", {"n_head": 5}, "config.n_head: 5 heads do not divide the width 64"),
        ("llamagen-c2i", {"rope_base": None}, "config.rope_base: None is not a number above 0"),
        ("llamagen-c2i", {"grid": [2000, 2000]}, "a grid of (2000, 2000) has more than 1048576 tokens"),
        ("llamagen-c2i", {"weights": 3}, "config.weights: 3 is not text"),
        ("llamagen-c2i", {"weights": "ema"}, "holds no 'ema'; it holds model"),
        ("llamagen-c2i", {"prefix": "net."}, "no tensor's name begins with 'net.'"),
        ("var", {"patch_nums": 3}, "config.patch_nums: 3 is not a list of whole numbers above 0"),
        ("var", {"patch_nums": [1, -2, 3, 4]}, "[1, -2, 3, 4] is not a list of whole numbers above 0"),
        ("var", {"num_classes": 11}, "config.num_classes: 11 classes; the table has rows for 10 and a null class"),
        ("rar", {"condition_num_classes": 9}, "9 classes; the table has rows for 10 and a null class"),
        ("rar", {"model": 3}, "config.model: 3 is not a mapping"),
        ("rar", {"model": {"generator": [1]}}, "config.model.generator: [1] is not a mapping"),
        ("amused", {"use_bias": 1}, "config.use_bias: 1 is not true or false"),
        ("amused", {"null_features": 3}, "config.null_features: 3 is not a path"),
        ("titok-bert", {"num_hidden_layers": 7}, "config.num_hidden_layers: 7 layers; the file holds 3"),
        ("llamagen-vq", {"codebook_l2": 1}, "llamagen-vq reads no key 'codebook_l2'; did you mean 'codebook_l2_norm'?"),
        ("llamagen-vq", {"codebook_l2_norm": 1}, "llamagen-vq: codebook_l2_norm: 1 is not true or false"),
    ],
)  # fmt: skip
def test_what_is_stated_wrongly_is_named(name: str, stated: dict[str, Any], said: str) -> None:
    assert said in complaint(Source(str(GOLDEN / name), config=stated))


def test_a_run_refuses_unknown_keys_too() -> None:
    source = Source(str(GOLDEN / "llamagen-c2i"), config={"n_haed": 2})
    with pytest.raises(InputError, match=r"r.yaml: model.config: llamagen reads no key 'n_haed'"):
        families.load(source, "r.yaml: model")


# Families' settings by size, as their authors publish them; see docs/families.md for the files.
PUBLISHED = {
    ("rar", "RAR-B"): Sampler(cfg_scale=16.0, guidance="power-cosine", guidance_power=2.75),
    ("rar", "RAR-L"): Sampler(cfg_scale=15.5, temperature=1.02, guidance="power-cosine", guidance_power=2.5),
    ("rar", "RAR-XL"): Sampler(cfg_scale=6.9, temperature=1.02, guidance="power-cosine", guidance_power=1.5),
    ("rar", "RAR-XXL"): Sampler(cfg_scale=8.0, temperature=1.02, guidance="power-cosine", guidance_power=1.2),
}


@dataclass(frozen=True)
class Shaped:
    """A tensor that is nowhere."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def sampler_of(family: str, **shapes: tuple[int, ...]) -> Sampler:
    """How a checkpoint with tensors of these shapes draws."""
    entries = {name: Shaped(shape) for name, shape in shapes.items()}
    found: Sampler = families.torch_family(family).sampler(Planned(Path("m.pt"), (), {}, entries))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("family", "size"), PUBLISHED)
def test_each_size_draws_as_published(family: str, size: str) -> None:
    shapes = json.loads((DATA / "published" / f"{family}.json").read_text())[size]["state_dict"]
    assert sampler_of(family, **{name: tuple(shape) for name, shape in shapes.items()}) == PUBLISHED[family, size]


@pytest.mark.parametrize(("width", "weight"), [(384, 1.5), (512, 1.0), (768, 0.7), (1024, 0.5)])
def test_halton_maskgit_draws_each_width_with_its_published_guidance(width: int, weight: float) -> None:
    found = sampler_of("halton-maskgit", **{"tok_emb.weight": (16385, width)})
    assert found == Sampler(cfg_scale=1 + weight, steps=32, schedule="arccos", reveal="halton")


@pytest.mark.parametrize(("tokens", "scale", "temperature"), [(32, 4.5, 9.5), (64, 3.0, 11.0)])
def test_titok_draws_each_length_as_published(tokens: int, scale: float, temperature: float) -> None:
    found = sampler_of("titok-bert", **{"model.embeddings.position_embeddings.weight": (tokens + 1, 768)})
    assert (found.cfg_scale, found.choice_temperature, found.steps) == (1 + scale, temperature, 8)


def test_taming_imagegpt_var_and_llamagen_draw_as_published() -> None:
    table = "transformer.tok_emb.weight"
    assert sampler_of("taming", **{table: (16384, 1536)}) == Sampler(top_k=600, top_p=0.92)
    assert sampler_of("taming", **{table: (1024, 1664)}) == Sampler(top_k=250)
    assert sampler_of("imagegpt") == Sampler()
    assert sampler_of("var") == Sampler(cfg_scale=2.5, guidance="linear", top_k=900, top_p=0.96)
    classes = {"cls_embedding.embedding_table.weight": (1001, 768)}
    assert sampler_of("llamagen", **classes) == Sampler(cfg_scale=4.0, top_k=2000)
    assert sampler_of("llamagen", **{"cls_embedding.uncond_embedding": (120, 2048)}) == Sampler(
        cfg_scale=7.5, top_k=1000
    )


def llamagen(folder: Path, rows: int, **config: Any) -> Path:
    """A LlamaGen whose table of classes has as many rows."""
    state = torch.load(GOLDEN / "llamagen-c2i" / "checkpoint.pt", weights_only=True)["model"]
    key = "cls_embedding.embedding_table.weight"
    state[key] = state[key][:rows].clone()
    torch.save({"model": state}, folder / "checkpoint.pt")
    changed = json.loads((GOLDEN / "llamagen-c2i" / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in changed.items() if value != "absent"}))
    return folder


def test_llamagen_without_a_null_class_has_all_its_classes(tmp_path: Path) -> None:
    folder = llamagen(tmp_path, 10, class_dropout_prob=0.0)
    found = inspect(Source(str(folder)))
    assert found.config["classes"] == 10
    assert found.notes[-1].startswith("no null class, so guidance leads nowhere")
    checkpoint = Checkpoint.open(folder)
    config = families.plan(checkpoint, "llamagen").config
    transformer = read_transformer(checkpoint, families.torch_family("llamagen"), config, None)
    table = checkpoint["cls_embedding.embedding_table.weight"]
    torch.testing.assert_close(transformer.embedding.weight[-11:], torch.cat([table, table.mean(0, keepdim=True)]))
    assert families.torch_family("llamagen").sampler(checkpoint).cfg_scale == 1.0


@pytest.mark.parametrize(
    ("rows", "config", "classes", "note"),
    [
        (11, {}, 10, ""),
        (11, {"num_classes": "absent", "class_dropout_prob": "absent"}, 10, "is taken for the null class"),
        (11, {"num_classes": "absent", "class_dropout_prob": 0}, 11, "no null class"),
        (10, {"class_dropout_prob": "absent"}, 10, "no null class"),
        (11, {"class_dropout_prob": "absent"}, 10, ""),
    ],
)
def test_whether_llamagen_has_a_null_class_is_stated_or_said(
    tmp_path: Path, rows: int, config: dict[str, Any], classes: int, note: str
) -> None:
    found = inspect(Source(str(llamagen(tmp_path, rows, **config))))
    assert found.config["classes"] == classes
    assert note in " ".join(found.notes)
    assert bool(note) == (len(found.notes) > 1)


@pytest.mark.parametrize(
    ("rows", "config", "said"),
    [
        (11, {"class_dropout_prob": 0}, "has 11 rows; config.num_classes 10 and class_dropout_prob 0 make 10"),
        (10, {}, "has 10 rows; config.num_classes 10 and class_dropout_prob 0.1 make 11"),
        (8, {"class_dropout_prob": "absent"}, "has 8 rows; config.num_classes 10 and class_dropout_prob not stated"),
        (11, {"class_dropout_prob": 2}, "config.class_dropout_prob: 2 is not between 0 and 1"),
    ],
)  # fmt: skip
def test_a_table_of_classes_that_does_not_fit_is_refused(
    tmp_path: Path, rows: int, config: dict[str, Any], said: str
) -> None:
    assert said in complaint(Source(str(llamagen(tmp_path, rows, **config))))


@pytest.mark.parametrize("prefix", ["model.", "net.model.", "generator.net.", "module.model."])
def test_names_behind_a_prefix_are_read_and_said(tmp_path: Path, prefix: str) -> None:
    state = torch.load(GOLDEN / "llamagen-c2i" / "checkpoint.pt", weights_only=True)["model"]
    shutil.copy(GOLDEN / "llamagen-c2i" / "config.json", tmp_path)
    torch.save(
        {"state_dict": {prefix + name: tensor for name, tensor in state.items()}, "epoch": 1}, tmp_path / "m.ckpt"
    )
    found = inspect(Source(str(tmp_path)))
    assert found.family == "llamagen"
    assert found.notes[1] == f"the names behind '{prefix.removeprefix('module.')}'"


def test_names_behind_two_prefixes_are_asked_for(tmp_path: Path) -> None:
    state = torch.load(GOLDEN / "llamagen-c2i" / "checkpoint.pt", weights_only=True)["model"]
    shutil.copy(GOLDEN / "llamagen-c2i" / "config.json", tmp_path)
    both = {f"{prefix}.{name}": tensor for prefix in ("ema_model", "model") for name, tensor in state.items()}
    torch.save({"state_dict": both}, tmp_path / "m.ckpt")
    assert complaint(Source(str(tmp_path))).endswith(
        "stand behind 'ema_model.', 'model.'; state which to read: config.prefix, for example  --set prefix=ema_model."
    )
    found = inspect(Source(str(tmp_path), config={"prefix": "model."}))
    assert found.notes[1] == f"the names behind 'model.'; {len(state)} other tensors are left"


def test_a_tokenizer_behind_a_prefix_is_read(tmp_path: Path) -> None:
    state = load_file(GOLDEN / "titok" / "checkpoint.safetensors")
    torch.save({f"tokenizer.{name}": tensor for name, tensor in state.items()}, tmp_path / "m.pt")
    assert inspect(Source(str(tmp_path / "m.pt"))).family == "titok"


def test_a_tokenizer_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    state = load_file(GOLDEN / "titok" / "checkpoint.safetensors")
    del state["encoder.ln_post.weight"]
    torch.save(state, tmp_path / "m.pt")
    assert "titok: tensor 'encoder.ln_post.weight' is missing" in complaint(Source(str(tmp_path / "m.pt")))

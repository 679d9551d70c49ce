"""Numbers of a config that no model has are refused in a line, before anything is made of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from compress.core.settings import InputError, parse, plain
from compress.models import clip
from compress.models.bounds import MOST_TOKENS
from compress.models.families import reference
from compress.models.tokenizer.model import build
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.tokenizer.titok import TitokConfig, VitConfig
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.quantized import LinearQuantization
from compress.models.transformer.uvit import UvitConfig
from export.runtime.shape import TextShape

PLAIN = TransformerConfig(vocabulary=8, classes=2, grid=(4, 4), width=16, head_width=8, layers=(LayerConfig(2, 2, 16),))
UVIT = UvitConfig(8, 8, 1, 2, 2, text_width=4, pooled_width=4, size=(16.0,), size_width=4)
TEXT = replace(
    PLAIN, classes=1, activation="geglu", positions="none", order="masked", modulation="text",
    text=TextShape(3, 4), uvit=UVIT,
)  # fmt: skip
SCALED = replace(
    PLAIN, norm="layernorm", norm_affine=False, final_affine=False, positions="learned", bias=True, head_bias=True,
    order="next-scale", modulation="class", scales=(1, 2, 4), latent_width=4,
)  # fmt: skip
VQ = VqConfig(
    codes=16, code_width=4, latent_width=8, encoder_channels=(8, 16), decoder_channels=(8, 16), encoder_blocks=1,
    decoder_blocks=1, norm_groups=4,
)  # fmt: skip
TITOK = TitokConfig(16, 4, 6, VitConfig(64, 1, 8, 2), VitConfig(64, 1, 8, 2))
HUGE_NUMBERS = (2**63, 10**25, 2**31, -1, -(2**63))


def places(config) -> list[str]:
    """The fields of a config that are whole numbers, or several."""
    return [
        name
        for name, value in plain(config).items()
        if type(value) is int or (isinstance(value, list) and value and all(type(each) is int for each in value))
    ]


def with_number(config, name: str, number: int) -> dict:
    """A config as JSON holds it, with a number in one field: the last, where it is a list."""
    found = plain(config)
    found[name] = [*found[name][:-1], number] if isinstance(found[name], list) else number
    return found


@pytest.mark.parametrize("number", HUGE_NUMBERS)
@pytest.mark.parametrize(
    "config", [PLAIN, TEXT, SCALED, UVIT, VQ, TITOK, TITOK.encoder, ScalesConfig((1, 2)), LinearQuantization("int8")]
)
def test_every_whole_number_of_a_config_has_a_bound(config, number):
    assert places(config)
    for name in places(config):
        with pytest.raises(InputError) as caught:
            parse(type(config), with_number(config, name, number), "config.json: part")
        assert len(str(caught.value)) < 500
        assert any(
            word in str(caught.value) for word in (name, name.replace("scales", "sides"), "channels: norm_groups")
        )


@pytest.mark.parametrize("name", ["heads", "kv_heads", "ffn"])
def test_a_layer_has_bounds(name):
    layer = {"heads": 2, "kv_heads": 2, "ffn": 16, name: 10**25}
    with pytest.raises(InputError, match=rf"layers\[0\]: .*{name} 10000000000000000000000000"):
        parse(TransformerConfig, {**plain(PLAIN), "layers": [layer]}, "config.json")


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (PLAIN, {"grid": (2**11, 2**10)}, f"grid \\(2048, 1024\\): .* at most {MOST_TOKENS} tokens"),
        (PLAIN, {"norm_epsilon": 1.0}, "norm_epsilon 1.0: must be between 0 and 1"),
        (PLAIN, {"norm_epsilon": -1e-5}, "norm_epsilon -1e-05: must be between 0 and 1"),
        (PLAIN, {"rotary_base": 0.0}, r"rotary_base 0.0: must be above 0 and below 1e\+30"),
        (PLAIN, {"rotary_base": 1e300}, r"rotary_base 1e\+300: must be above 0 and below 1e\+30"),
        (PLAIN, {"head_width": 2**24}, "head_width 16777216 with 16 positions: a table of rotary positions has"),
        (PLAIN, {"layers": PLAIN.layers * 10_001}, "10001 layers: must be 1 to 10000"),
        (PLAIN, {"layers": ()}, "0 layers: must be 1 to 10000"),
        (SCALED, {"scales": (1, 65), "grid": (65, 65)}, r"sides \(1, 65\): at most 64, and 16384 tokens"),
        (SCALED, {"scales": (1,) * 20_000, "grid": (1, 1)}, "at most 64, and 16384 tokens together"),
        (UVIT, {"cross_heads": 0}, "cross_heads 0: must be at least 1"),
        (UVIT, {"depth": 1025}, "depth 1025: must be at most 1024"),
        (UVIT, {"size": (1e300,)}, r"size \(1e\+300,\): must be at most 64 numbers below 1e\+30"),
        (UVIT, {"size": (0.0,) * 65}, "must be at most 64 numbers"),
        (TEXT, {"text": TextShape(3, 2)}, "text_width 4 and pooled_width 4 must be at most the text's width 2"),
        (VQ, {"decoder_blocks": 65}, "decoder_blocks 65: must be at most 64"),
        (TITOK.encoder, {"layers": 1025}, "layers 1025: must be at most 1024"),
        (TITOK.encoder, {"side": 4096}, "a picture have at most 4096 pixels along a side"),
        (ScalesConfig((1, 2)), {"convs": 1025}, "convs 1025: must be at most 1024"),
        (ScalesConfig((1, 2)), {"residual": 1e7}, r"residual 10000000.0: must be a number below 1e\+06"),
        (LinearQuantization("int8"), {"group": 2**17}, "group 131072: must be 0 or a power of two from 16 to 65536"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_said_with_what_would_be_right(config, change, said):
    with pytest.raises(ValueError, match=said):
        replace(config, **change)


def test_widths_that_are_too_large_together_are_one_line_and_no_memory():
    config = {
        **plain(PLAIN),
        "width": 2**24,
        "head_width": 2**24,
        "patch": 4,
        "positions": "learned",
        "order": "masked",
    }
    with pytest.raises(InputError, match=r"config.json: transformer: ") as caught:
        reference.on_meta({"transformer": {**config, "layers": [{"heads": 2**24, "kv_heads": 2**24, "ffn": 2**24}]}},
                          "config.json")  # fmt: skip
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"levels": 1, "grid": [2, 2]}, "tokenizer: levels 1: must be at least 2"),
        ({"levels": 10**25, "grid": [2, 2]}, "tokenizer: levels 10000000000000000000000000: must be at most"),
        ({"levels": 2, "grid": [0, 2]}, "tokenizer: grid (0, 2): needs sides of at least 1"),
        ({"levels": 2, "grid": [2, 2**63]}, "at most 1048576 tokens"),
        ({"levels": 2, "grid": [2, 2], "colours": [[0], [300]]}, "each value must be between 0 and 255"),
        ({"levels": 2, "grid": [2, 2], "colours": [[], []]}, "must have 1 to 4 channels"),
    ],
)
def test_a_palette_has_bounds(description, said):
    with pytest.raises(InputError) as caught:
        build({"kind": "pixels", **description}, {})
    assert said in str(caught.value)


@pytest.mark.parametrize("grid", [[2**63, 1], [2**11, 2**10], [0, 1]])
def test_the_grid_of_an_image_tokenizer_has_a_bound(grid):
    autoencoder = VqAutoencoder(VQ)
    with pytest.raises(InputError, match=r"tokenizer: grid .* at most 1048576 tokens"):
        build({"kind": "vq", "autoencoder": plain(VQ), "grid": grid}, autoencoder.state_dict())


def test_weights_that_a_config_describes_and_no_file_has_take_no_memory():
    described = {"kind": "vq", "autoencoder": {**plain(VQ), "code_width": 2**20, "codes": 2**20}, "grid": [2, 2]}
    with pytest.raises(InputError, match=r"its config says \(1048576, 1048576\)"):
        build(described, {"quantizer.embedding.weight": torch.zeros(16, 4)})


@pytest.mark.parametrize("number", [0, -1, 10**25, 2.0, "77", [], True])
def test_the_length_of_a_text_has_a_bound(tmp_path, number):
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps({"max_position_embeddings": number}))
    with pytest.raises(InputError, match=r"config.json: max_position_embeddings: .* is not a whole number from 1 to"):
        clip.length(tmp_path)

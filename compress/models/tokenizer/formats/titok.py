"""TiTok's one-dimensional tokenizers (arXiv 2406.07550): L-32, B-64, S-128, and those that draw pixels themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compress.core.settings import InputError
from compress.models.tokenizer.formats import maskgit_vqgan
from compress.models.tokenizer.layout import QUERY_KEY_VALUE, Source, Tensors, convert, infer, take, truth, with_weights
from compress.models.tokenizer.model import Tokenizer
from compress.models.tokenizer.titok import TitokAutoencoder, TitokConfig, VitConfig

FORMAT = "titok"
PIXELS = "pixel_"  # begins the names of the MaskGIT-VQGAN decoder and its codebook
NAMES = {  # ours to the published ones, where they differ; a block's layers follow
    "encoder.tokens": "latent_tokens",
    "encoder.patch": "encoder.patch_embed",
    "encoder.head": "encoder.conv_out",
    "decoder.embed": "decoder.decoder_embed",
    "decoder.mask": "decoder.mask_token",
    "decoder.hidden": "decoder.ffn.0",
    "decoder.smooth": "decoder.conv_out",
    "quantizer.embedding": "quantize.embedding",
}
TRUNK = {
    "class_token": "class_embedding",
    "positions": "positional_embedding",
    "token_positions": "latent_token_positional_embedding",
    "before": "ln_pre",
    "after": "ln_post",
}
BLOCK = {
    "attention_norm": "ln_1",
    "output": "attn.out_proj",
    "ffn_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
KEYS = ("use_l2_norm", "model", "grid")  # of config.json, that are read


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are this format's."""
    return "latent_tokens" in state and "decoder.mask_token" in state and "quantize.embedding.weight" in state


def read(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; of the config only `use_l2_norm` (perhaps in `model.vq_model`) is not in the weights.

    Raises:
        InputError: the first tensor that is missing, surplus or of another shape.
    """
    tensors, pixels = Tensors(state, FORMAT), Tensors(state, FORMAT, PIXELS)
    drawn = not tensors.has("decoder.ffn.2")  # the later checkpoints have no pixel decoder
    pixel_config = None if drawn else infer(pixels, maskgit_vqgan.LAYOUT, **maskgit_vqgan.TRAITS)
    patch = pixel_config.factor if pixel_config else drawn_patch(tensors)
    codes, code_width = tensors.shape("quantize.embedding.weight", 2)
    try:
        titok = TitokConfig(
            codes=codes,
            code_width=code_width,
            tokens=tensors.shape("latent_tokens", 2)[0],
            encoder=vit(tensors, "encoder", patch_of(tensors)),
            decoder=vit(tensors, "decoder", patch),
            normalised_codes=truth(setting_of(config, "use_l2_norm", not drawn), FORMAT, "use_l2_norm"),
            pixels=pixel_config,
        )
    except ValueError as error:
        raise InputError(f"{FORMAT}: {error}") from error
    with torch.device("meta"):
        wanted = TitokAutoencoder(titok).state_dict()
    weights = {name: take(tensors, origin(name, drawn), like) for name, like in wanted.items() if not of_pixels(name)}
    if pixel_config is not None:
        converted = convert(pixels, maskgit_vqgan.LAYOUT, pixel_config)
        weights |= {f"pixels.{name}": tensor for name, tensor in converted.items()}
        pixels.check_all_read(lambda name: False)
    tensors.check_all_read(lambda name: name == "quantize.embed_prob" or (not drawn and name.startswith(PIXELS)))
    return with_weights(TitokAutoencoder(titok), weights, (1, titok.tokens), FORMAT)


def of_pixels(name: str) -> bool:
    """Whether our tensor of this name is the pixel decoder's."""
    return name.startswith("pixels.")


def vit(tensors: Tensors, side: str, patch: int) -> VitConfig:
    """What names and shapes say of one transformer."""
    places, width = tensors.shape(f"{side}.positional_embedding", 2)
    return VitConfig(
        width=width,
        layers=tensors.count(f"{side}.transformer.{{}}"),
        patch=patch,
        side=round((places - 1) ** 0.5),
    )


def patch_of(tensors: Tensors) -> int:
    """Pixels along one side of a patch that the encoder reads."""
    return tensors.shape("encoder.patch_embed.weight", 4)[3]


def drawn_patch(tensors: Tensors) -> int:
    """Pixels along one side of a patch that the decoder draws."""
    return round(math.sqrt(tensors.width("decoder.ffn.0") / 3))


def setting_of(config: Mapping[str, Any], name: str, default: Any) -> Any:
    """A setting of the tokenizer, which published configs keep in `model.vq_model`."""
    model = config.get("model")
    nested = model.get("vq_model") if isinstance(model, Mapping) else None
    return {**(nested if isinstance(nested, Mapping) else {}), **config}.get(name, default)


def origin(name: str, drawn: bool) -> Source:
    """Where our tensor of this name comes from."""
    side, _, rest = name.partition(".trunk.")
    if rest.startswith("blocks."):
        _, number, layer, *leaf = rest.split(".")
        place = f"{side}.transformer.{number}"
        if layer in QUERY_KEY_VALUE:
            part = QUERY_KEY_VALUE.index(layer)
            return Source(f"{place}.attn.in_proj_{leaf[0]}", part, len(QUERY_KEY_VALUE))
        return Source(".".join([place, BLOCK[layer], *leaf]))
    if rest:
        part_name, _, ending = rest.partition(".")
        return Source(".".join([side, TRUNK[part_name], *([ending] if ending else [])]))
    module, _, ending = name.rpartition(".")
    if module == "decoder.head":
        return Source(f"decoder.ffn.{0 if drawn else 2}.{ending}")
    return Source(NAMES[name] if name in NAMES else f"{NAMES[module]}.{ending}")

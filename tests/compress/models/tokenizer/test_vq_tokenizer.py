"""Tokenizers as models use them: arrays in and out, restored from their description, exported to ONNX."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from compress.core.settings import InputError
from compress.models.tokenizer.model import PixelTokenizer, Tokenizer, VqTokenizer, build
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.tokenizer.titok import TitokAutoencoder, TitokConfig, VitConfig
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from export.graph.onnx_model import OPSET
from export.graph.quiet import quiet

CLUSTERS = np.array([[-1, -1, -1], [1, 1, 1], [1, -1, -1], [-0.2, 0.4, 0.9]])


def vq(**changes) -> VqTokenizer:
    torch.manual_seed(0)
    shape = {"codes": 64, "code_width": 8, "latent_width": 8, "encoder_channels": (8, 16), "norm_groups": 4}
    config = VqConfig(**{**shape, "decoder_channels": (8, 16), "encoder_blocks": 1, "decoder_blocks": 1, **changes})
    return VqTokenizer(VqAutoencoder(config).eval(), (4, 4))


def row(**changes) -> VqTokenizer:
    torch.manual_seed(0)
    pixels = VqConfig(32, 8, 8, (), (8, 16), decoder_blocks=1, quant_kernel=0, norm_groups=4, pixel_range="unit")
    shape = {"encoder": VitConfig(64, 1, 4, 2), "decoder": VitConfig(64, 1, 2, 4), "pixels": pixels}
    autoencoder = TitokAutoencoder(TitokConfig(codes=64, code_width=8, tokens=5, **{**shape, **changes})).eval()
    with torch.no_grad():
        for parameter in autoencoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return VqTokenizer(autoencoder, (1, 5))


TOKENIZERS: dict[str, Tokenizer] = {
    "greys": PixelTokenizer(17, (4, 4)),
    "clusters": PixelTokenizer.of_clusters(CLUSTERS, (4, 4)),
    "vq": vq(attention_levels=(1,)),
    "normalised, unit range, pooled": vq(
        normalised_codes=True, pixel_range="unit", downsample="pool", shortcut="output", bias=False, quant_kernel=0
    ),
    "row": row(),
    "row of pixels": row(pixels=None, decoder=VitConfig(64, 1, 4, 2), normalised_codes=False),
    "scales": vq(scales=ScalesConfig((1, 2, 3, 4)), quant_kernel=3),
}


@pytest.fixture(params=TOKENIZERS, ids=str)
def tokenizer(request) -> Tokenizer:
    return TOKENIZERS[request.param]


@pytest.fixture
def images(tokenizer: Tokenizer) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (3, *tokenizer.picture), dtype=np.uint8)


def run(module: torch.nn.Module, example: torch.Tensor, batch: np.ndarray) -> list[np.ndarray]:
    """What the exported module says of another batch size than it was exported with."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: "batch"},), verbose=False
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: batch})


def test_pictures_become_tokens_and_tokens_pictures(tokenizer: Tokenizer, images: np.ndarray) -> None:
    tokens = tokenizer.encode(images)
    assert (tokens.shape, tokens.dtype) == ((3, tokenizer.length), np.int64)
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.vocabulary
    pictures = tokenizer.decode(tokens)
    assert (pictures.shape, pictures.dtype) == (images.shape, np.uint8)
    assert np.array_equal(tokenizer.encode(images[1:2]), tokens[1:2])
    assert tokenizer.decode(tokens[:0]).shape == (0, *tokenizer.picture)


def test_a_tokenizer_is_restored_from_its_description_and_weights(tokenizer: Tokenizer, images: np.ndarray) -> None:
    description = json.loads(json.dumps(tokenizer.describe()))
    restored = build(description, {name: tensor.clone() for name, tensor in tokenizer.state().items()})
    assert (restored.vocabulary, restored.grid, restored.picture) == (
        tokenizer.vocabulary,
        tokenizer.grid,
        tokenizer.picture,
    )
    tokens = tokenizer.encode(images)
    assert np.array_equal(restored.encode(images), tokens)
    assert np.array_equal(restored.decode(tokens), tokenizer.decode(tokens))


@pytest.mark.slow
def test_the_exported_decoder_draws_the_same_pictures(tokenizer: Tokenizer) -> None:
    tokens = torch.randint(0, tokenizer.vocabulary, (3, tokenizer.length))
    pictures, pixels = run(tokenizer.decoder(), tokens[:2], tokens.numpy())
    with torch.no_grad():
        wanted = tokenizer.decoder()(tokens)
    assert (pictures.dtype, pixels.dtype) == (np.uint8, np.float32)
    assert np.allclose(pixels, wanted[1], atol=1e-4)
    assert np.abs(pictures.astype(int) - wanted[0].numpy().astype(int)).max() <= 1


@pytest.mark.slow
def test_the_exported_encoder_says_the_same_tokens(tokenizer: Tokenizer, images: np.ndarray) -> None:
    encoder = tokenizer.encoder()
    assert encoder is not None
    (tokens,) = run(encoder, torch.from_numpy(images[:2]), images)
    assert np.array_equal(tokens, tokenizer.encode(images))


def test_colours_are_clusters_and_pixels_take_the_nearest() -> None:
    tokenizer = PixelTokenizer.of_clusters(CLUSTERS, (1, 4))
    assert tokenizer.palette().tolist() == [[0, 0, 0], [255, 255, 255], [255, 0, 0], [102, 178, 242]]  # 178.5 to even
    image = np.array([[[[9, 0, 3], [200, 40, 60], [90, 190, 200], [250, 250, 255]]]], dtype=np.uint8)
    assert tokenizer.encode(image).tolist() == [[0, 2, 3, 1]]
    assert tokenizer.decode(np.array([[0, 2, 3, 1]]))[0, 0].tolist() == tokenizer.palette()[[0, 2, 3, 1]].tolist()


def test_pixels_are_not_clamped_before_rounding() -> None:
    tokenizer = vq()
    with torch.no_grad():
        tokenizer.autoencoder.decoder.head.bias.copy_(torch.tensor([5.0, -5.0, 0.0]))
        images, pixels = tokenizer.decoder()(torch.zeros(1, 16, dtype=torch.int64))
    assert (pixels[..., 0] > 1).all()
    assert (pixels[..., 1] < 0).all()
    assert (images[..., 0] == 255).all()
    assert (images[..., 1] == 0).all()


def test_other_shapes_are_refused(tokenizer: Tokenizer, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"pictures are .*; the tokenizer's are"):
        tokenizer.encode(images[:, 1:])
    if isinstance(tokenizer, VqTokenizer):
        with pytest.raises(ValueError, match=f"the tokenizer's pictures have {tokenizer.length}"):
            tokenizer.decode(np.zeros((1, 3), dtype=np.int64))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 colours for 3 levels"):
        PixelTokenizer(3, (1, 1), ((0.0,), (1.0,)))
    with pytest.raises(ValueError, match=r"grid \(4, 4\): must be \(2, 2\)"):
        vq(scales=ScalesConfig((1, 2)))
    with pytest.raises(ValueError, match=r"grid \(0, 4\): needs sides of at least 1"):
        VqTokenizer(vq().autoencoder, (0, 4))


def test_a_description_is_checked() -> None:
    tokenizer = vq()
    description, state = tokenizer.describe(), tokenizer.state()
    with pytest.raises(InputError, match=r"m/tokenizer.kind: 'wavelet' is not a tokenizer; known: pixels, titok, vq"):
        build({"kind": "wavelet"}, {}, "m/tokenizer")
    with pytest.raises(InputError, match=r"tokenizer.autoencoder: unknown key 'code'"):
        build({**description, "autoencoder": {**description["autoencoder"], "code": 3}}, state)
    with pytest.raises(InputError, match=r"tokenizer: tensor 'decoder.head.bias' is missing"):
        build(description, {name: value for name, value in state.items() if name != "decoder.head.bias"})

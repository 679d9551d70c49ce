"""The image decoder's exact rewrites give the decoder's own pixels, for every published kind of tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress.models.tokenizer import formats
from export.rewrites.decoder_fusion import fuse_decoder, parts
from export.tracing.export import Pictures
from export.tracing.trace import plain_graph

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
KINDS = ("llamagen-vq", "rar-vqgan", "var-vqvae", "titok", "titok-pixels")


def decoder_of(name: str) -> tuple[ir.Model, int, int]:
    """A golden tokenizer's decoder as exported, its tokens of a picture and its codes."""
    folder = GOLDEN / name
    safe = folder / "checkpoint.safetensors"
    state = load_file(safe) if safe.exists() else torch.load(folder / "checkpoint.pt", weights_only=True)
    config = json.loads((folder / "config.json").read_text())
    made = formats.read(state.get("model", state), config, name)
    return Pictures(made.decoder(), None, made.length, made.picture).decoder_graph, made.length, made.vocabulary


def pixels(model: ir.Model, feeds: dict[str, np.ndarray], output: str = "pixels") -> np.ndarray:
    """What ONNX Runtime makes of it."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([output], feeds)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_every_published_decoder_stay(kind: str) -> None:
    source, length, codes = decoder_of(kind)
    before = ir.to_proto(source).SerializeToString()
    fused = fuse_decoder(source)
    norms = sum(node.op_type == "GroupNormalization" for node in source.graph)
    assert fused.counts == {"group-norm": norms}
    assert not any(node.op_type == "GroupNormalization" for node in fused.graph.graph)
    tokens = {"tokens": np.random.default_rng(0).integers(0, codes, (2, length))}
    np.testing.assert_allclose(pixels(fused.graph, tokens), pixels(source, tokens), rtol=0, atol=1e-5)
    assert ir.to_proto(source).SerializeToString() == before, "the input is left as it was"
    used = {value for node in fused.graph.graph for value in node.inputs}
    assert set(fused.graph.graph.initializers.values()) <= used, "no weight stays that nothing reads"


class Norms(nn.Module):
    """Two groups of two channels, then a convolution on either side of another norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4, eps=0.1)
        self.middle, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
            self.norm.bias.copy_(torch.tensor([0.0, 0.5, 1.0, 1.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.norm(self.stem(x))))


def test_the_norm_has_pytorchs_numbers_and_convolutions_their_part() -> None:
    module = Norms().eval()
    source = plain_graph(module, torch.zeros(2, 1, 3, 5), "norms", "x", "y")
    fused = fuse_decoder(source).graph
    x = torch.randn(4, 1, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(pixels(fused, {"x": x.numpy()}, "y"), expected, atol=1e-5)
    first, behind, last = parts(fused)
    names = [node.name for node in source.graph if node.op_type == "Conv"]
    assert [first, behind, last] == [[name] for name in names]
    assert parts(source) == parts(fused)


def test_a_norm_whose_scale_is_computed_is_left() -> None:
    class Computed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.group_norm(x, 2, x.mean(dim=(0, 2, 3)), x.amax(dim=(0, 2, 3)))

    source = plain_graph(Computed(), torch.zeros(2, 4, 3, 3), "computed", "x", "y")
    fused = fuse_decoder(source)
    assert fused.counts == {"group-norm": 0}
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(pixels(fused.graph, {"x": x}, "y"), pixels(source, {"x": x}, "y"))

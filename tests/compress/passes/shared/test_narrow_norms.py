"""Norms of fewer channels: gains worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.models.transformer.examples import examples
from compress.passes.shared.channels import channel_axes, keep_channels
from compress.passes.shared.narrow_norms import correct_gains, norms, spread

WRITERS = ("attention.output", "ffn.down")


def test_what_norms_divide_by_is_worked_by_hand():
    x = torch.tensor([1.0, -1.0, 1.0, 5.0], dtype=torch.float64)
    assert float(spread(nn.RMSNorm(4, eps=2.0), x)) == pytest.approx(3.0)  # sqrt(28 / 4 + 2)
    # mean 1.5, squared deviations 0.25 + 6.25 + 0.25 + 12.25
    assert float(spread(nn.LayerNorm(4, eps=0.0), x)) == pytest.approx(4.75**0.5)


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_channels_that_are_zero_take_nothing_with_them(tiny_model, tiny_tokens, norm):
    model = tiny_model(norm=norm, norm_affine=norm == "rmsnorm", final_affine=norm == "rmsnorm")
    wide, dead = model.transformer, [3, 9, 10, 31]
    kept = torch.tensor([channel for channel in range(32) if channel not in dead])
    with torch.no_grad():
        for name in ("embedding.weight", *(f"blocks.{i}.{each}.weight" for i in (0, 1) for each in WRITERS)):
            tensor = wide.get_parameter(name)
            channels = tensor if name == "embedding.weight" else tensor.T
            if norm == "layernorm":  # with a mean of 0 the channels that stay have the same one
                channels[:, kept] -= channels[:, kept].mean(dim=1, keepdim=True)
            channels[:, dead] = 0
    narrow = keep_channels(wide, kept)
    correct_gains(narrow, wide, kept, tiny_tokens.part("train", 8))
    for name, module in norms(wide).items():  # the same squares over 28 channels instead of 32
        before = torch.ones(28) if module.weight is None else module.weight[kept]
        after = narrow.get_parameter(f"{name}.weight")
        torch.testing.assert_close(after, before * (32 / 28) ** 0.5, rtol=1e-4, atol=0)
    batch = examples(model.shape, tiny_tokens.part("held_out", 4)).tensors()
    with torch.no_grad():
        torch.testing.assert_close(narrow(*batch), wide(*batch), rtol=1e-3, atol=1e-3)


def test_every_norm_of_the_stream_is_corrected(any_model):
    declared = {place.name for place in channel_axes(any_model.transformer)}
    found = {f"{name}.weight" for name, module in norms(any_model.transformer).items() if module.weight is not None}
    assert found <= declared
    inside = ("query_norm", "key_norm", "stem", "tail", "text.norm")  # of heads, of tokens and of a text's states
    others = {
        name
        for name, module in any_model.transformer.named_modules()
        if isinstance(module, (nn.RMSNorm, nn.LayerNorm)) and not any(part in name for part in inside)
    }
    assert others == set(norms(any_model.transformer))

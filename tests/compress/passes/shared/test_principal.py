"""Principal axes: turning to them changes nothing, and they are those of what the norms read."""

from __future__ import annotations

import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes.shared.narrow_norms import norms
from compress.passes.shared.principal import in_principal_axes, unturnable, without_gains

TURNED = {
    "rmsnorm": {},
    "biases": {"bias": True, "kv_heads": 2},
    "head-bias": {"head_bias": True},
    "shifted-norm": {"final_norm": "rmsnorm-bias"},
    "no-final-norm": {"final_norm": "none"},
    "layernorm": {"norm": "layernorm", "activation": "gelu", "positions": "learned", "bias": True},
    "layernorm-plain": {"norm": "layernorm", "norm_affine": False, "final_affine": False},
    "patches": {"order": "masked", "positions": "learned", "patch": 2, "registers": 2, "outputs": 18},
}


@pytest.mark.parametrize("changes", TURNED.values(), ids=TURNED.keys())
def test_the_model_computes_the_same_in_its_principal_axes(tiny_model, tiny_tokens, changes):
    model = tiny_model(**changes)
    assert unturnable(model.transformer.config) is None
    made, shares = in_principal_axes(model.transformer, tiny_tokens.part("train", 8))
    batch = examples(model.shape, tiny_tokens.part("held_out", 4)).tensors()
    with torch.no_grad():
        torch.testing.assert_close(made(*batch), model.transformer(*batch), rtol=1e-4, atol=2e-4)
    assert shares.sum() == pytest.approx(1)
    assert (shares.diff() <= 0).all()


def test_the_channels_of_the_turned_stream_are_uncorrelated_and_their_squares_are_the_shares(tiny_model, tiny_tokens):
    model, tokens = tiny_model(), tiny_tokens.part("train", 8)
    made, shares = in_principal_axes(model.transformer, tokens)
    grams = []
    for norm in norms(made).values():
        norm.register_forward_hook(lambda module, given, out: grams.append(out.flatten(0, 1).T @ out.flatten(0, 1)))
    with torch.no_grad():
        made(*examples(model.shape, tokens).tensors())
    gram = sum(grams).double()
    torch.testing.assert_close(gram / gram.trace(), torch.diag(shares), rtol=0, atol=1e-5)


def test_gains_and_shifts_go_into_what_reads_the_norm(tiny_model):
    model = tiny_model(norm="layernorm", bias=True).transformer
    made = without_gains(model)
    gain, shift = model.norm.weight, model.norm.bias
    torch.testing.assert_close(made.head.weight, model.head.weight * gain)
    torch.testing.assert_close(made.head.bias, model.head.weight @ shift)
    torch.testing.assert_close(made.embedding.weight.mean(dim=1), torch.zeros(len(made.embedding.weight)))
    assert made.norm.weight is None
    assert made.config.norm == "rmsnorm"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modulation": "class"}, "modulation class scales and shifts channel by channel"),
        ({"positions": "learned", "embedding_norm": True}, "norms stand in the residual stream itself"),
        ({"post_norm": True}, "norms stand in the residual stream itself"),
        ({"tied_head": True}, "the head is the table of embeddings, which cannot take the last norm's gain"),
        ({"norm": "layernorm"}, "the layers behind its norms have no biases to take the norms' shifts"),
        (
            {"norm": "layernorm", "bias": True, "final_norm": "none"},
            "layers read the stream without LayerNorm, so its mean cannot go",
        ),
    ],
)
def test_a_stream_that_has_no_other_basis_says_why(tiny_model, changes, reason):
    assert unturnable(tiny_model(**changes).transformer.config) == reason

"""Where a training computes: a GPU that is not there is one line, and precision is as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.core.settings import InputError
from compress.training.device import computing, find_device


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"train\.device: cuda is asked for, but this PyTorch sees no GPU; use cpu"):
        find_device("cuda", "train.device")
    assert find_device("cpu", "train.device") == torch.device("cpu")


def test_products_are_rounded_to_bfloat16_only_where_the_recipe_says_so() -> None:
    layer, rows = nn.Linear(8, 8), torch.rand(2, 8)
    before = torch.get_float32_matmul_precision()
    with computing(torch.device("cpu"), "float32"):
        assert layer(rows).dtype == torch.float32
    with computing(torch.device("cpu"), "bfloat16"):
        assert layer(rows).dtype == torch.bfloat16
    with computing(torch.device("cpu"), "tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    assert layer.weight.dtype == torch.float32

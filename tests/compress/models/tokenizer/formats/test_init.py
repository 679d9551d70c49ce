"""Formats are told apart by names alone."""

from __future__ import annotations

import pytest
import torch

from compress.core.settings import InputError
from compress.models.tokenizer import formats


@pytest.mark.parametrize(
    ("case", "name"), [("llamagen-vq", "llamagen-vq"), ("rar-vqgan", "maskgit-vqgan"), ("var-vqvae", "var-vqvae")]
)
def test_each_format_is_recognised_by_one_module(golden, case: str, name: str) -> None:
    state = golden(case).state
    assert [each for each in formats.names() if formats.module_of(each).matches(state)] == [name]
    assert formats.recognise(dict.fromkeys(state)) == name


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"x.pt: the tensors' names are of no known tokenizer; known: diffusers-vq"):
        formats.read({"weight": torch.zeros(1)}, {}, "x.pt")


def test_every_tensor_is_read_once(golden) -> None:
    case = golden("var-vqvae")
    read: list[str] = []

    class Counted(dict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    formats.read(Counted(case.state), case.config, "x")
    assert sorted(read) == sorted(set(case.state) - {"quantize.ema_vocab_hit_SV"})

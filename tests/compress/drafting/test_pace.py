"""How long a picture takes here, from copies of a few layers."""

from __future__ import annotations

import pytest

from compress.drafting.pace import pace_of, through
from compress.models.image_model import ImageModel


def test_layers_beyond_the_copies_are_on_the_line_through_them() -> None:
    assert through([1, 3], (2.0, 6.0), 8) == 16.0, "2 a layer, and nothing around them"
    assert through([1, 3], (5.0, 4.0), 8) == 4.0, "noise does not make layers faster than nothing"
    assert through([1], (2.0,), 1) == 2.0


def test_every_order_has_a_pace_and_no_number_of_the_checkpoint_is_read(any_model: ImageModel) -> None:
    pace = pace_of(any_model.with_transformer(any_model.transformer.to("meta")), threads=1)
    assert all(seconds > 0 for seconds in vars(pace).values()), pace


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_as_before(threads: int, tiny_model) -> None:
    import torch

    before = torch.get_num_threads()
    pace_of(tiny_model(), threads)
    assert torch.get_num_threads() == before

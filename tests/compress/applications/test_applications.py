"""Variations, outpainting and upscaling: what stays stays, noise is the seed's, and windows join."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_shapes import next_scale

import compress
from compress.applications.asked import picture_of, wish_of
from compress.applications.canvas import Canvas, fill, free_sides, joined, nearest_of, places
from compress.applications.sides import parsed_sides
from compress.applications.staying import staying
from compress.applications.upscale import consistent, seen_scales, tokens_that_stay
from compress.core.settings import InputError
from compress.models.image_model import ImageModel
from export.runtime.sampling import Sampler, halton_order
from export.runtime.shape import Shape

MASKED: dict[str, Any] = {"order": "masked", "positions": "learned", "modulation": "class"}
SCALES = next_scale(1, 1, 2, 3, 7)
KINDS = {"causal": {}, "masked": MASKED, "next-scale": SCALES}
SAMPLER = Sampler(cfg_scale=1.5, steps=4)


def model_of(kind: str, tiny_model) -> ImageModel:
    """A tiny model that draws in this order."""
    return tiny_model(sampler=SAMPLER, **KINDS[kind])


def given_to(model: ImageModel, seed: int = 0) -> np.ndarray:
    """Any picture of the model's size."""
    return np.random.default_rng(seed).integers(0, 256, model.picture, dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_variation_keeps_its_tokens_and_draws_the_others_by_class_and_seed(kind: str, tiny_model) -> None:
    model = model_of(kind, tiny_model)
    given = given_to(model)
    tokens = model.encode_images(given[None])
    whole = compress.vary(model, given, keep=1.0, label=3, count=2)
    assert np.array_equal(whole, np.repeat(model.decode_images(tokens), 2, axis=0)), "as its decoder shows it"
    fresh = compress.vary(model, given, keep=0.0, label=[3, 4], seed=5)
    assert np.array_equal(fresh, compress.generate(model, [3, 4], seed=5)), "nothing of it is left"
    half = compress.vary(model, given, label="3", count=2, seed=5)
    assert np.array_equal(half, compress.vary(model, given, label=3, count=2, seed=5))
    assert np.array_equal(half[:1], compress.vary(model, given, label=3, seed=5)), "picture 0 is drawn alone alike"
    assert not np.array_equal(half, compress.vary(model, given, label=3, count=2, seed=6))
    assert not np.array_equal(half[0], half[1])


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_kept_tokens_are_in_the_result(kind: str, tiny_model) -> None:
    model = model_of(kind, tiny_model)
    given = given_to(model)
    tokens = model.encode_images(given[None])[0]
    drawn = model.encode_images(compress.vary(model, given, keep=0.25, label=3))[0]  # grey levels: tokens come back
    stays = halton_order((8, 8))[:16]
    assert np.array_equal(drawn[stays], tokens[stays])
    assert (drawn != tokens).sum() > 24
    pasted = compress.vary(model, given, keep=0.25, label=3, blend=0)[0]
    assert np.array_equal(pasted.reshape(-1)[stays], given.reshape(-1)[stays]), "byte for byte"


def test_tokens_stay_first_spread_or_by_the_seed() -> None:
    causal, scales = Shape("causal", 17, 3, (8, 8)), Shape("next-scale", 17, 3, (4, 4), scales=(1, 2, 4))
    assert np.flatnonzero(staying(causal, 0.25, "first", 0)).tolist() == list(range(16))
    assert set(np.flatnonzero(staying(causal, 0.25, None, 0))) == set(halton_order((8, 8))[:16])
    some, more = staying(causal, 0.25, "random", 1), staying(causal, 0.5, "random", 1)
    assert (some.sum(), more.sum(), (some & more).sum()) == (16, 32, 16)
    assert not np.array_equal(some, staying(causal, 0.25, "random", 2))
    assert np.flatnonzero(staying(scales, 5 / 21, None, 0)).tolist() == list(range(5))
    with pytest.raises(
        InputError, match=r"^--where spread: this model draws scale by scale, so the coarse scales stay"
    ):
        staying(scales, 0.5, "spread", 0)
    flat = Shape("masked", 17, 3, (1, 32))
    assert staying(flat, 0.5, None, 0).sum() == 16
    with pytest.raises(InputError, match=r"^--where spread: this model's tokens stand for the whole picture"):
        staying(flat, 0.5, "spread", 0)


def test_without_a_class_pictures_are_unconditional_and_guidance_has_nowhere_to_go(tiny_model) -> None:
    model = model_of("masked", tiny_model)
    wish = wish_of(model, None, 2, None, 0, 0, {})
    assert (wish.labels.tolist(), wish.sampling) == ([10, 10], {"cfg_scale": 1.0})
    assert wish_of(model, "1,2", 2, None, 0, 0, {}).labels.tolist() == [1, 1, 2, 2]
    with pytest.raises(InputError, match=r"^cfg_scale 2.0: guides towards a class; give a --label too, or leave it"):
        wish_of(model, None, 1, None, 0, 0, {"cfg_scale": 2.0})
    with pytest.raises(InputError, match=r"^--label: label 10000 is not a class"):
        wish_of(model, "10000", 1, None, 0, 0, {})
    with pytest.raises(InputError, match=r"^--features: this model draws no texts"):
        wish_of(model, None, 1, np.zeros((1, 2, 2), np.float32), 0, 0, {})
    with pytest.raises(InputError, match=r"^steps 4: this model draws token by token"):
        wish_of(model_of("causal", tiny_model), "1", 1, None, 0, 0, {"steps": 4})


def test_pixels_of_another_kind_are_no_picture() -> None:
    with pytest.raises(InputError, match=r"^picture: float64 \(8, 8, 3\); uint8 \(height, width, 1 or 3\) is needed"):
        picture_of(np.zeros((8, 8, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_goes_on_and_its_own_pixels_stay(kind: str, tiny_model) -> None:
    model = model_of(kind, tiny_model)
    given = given_to(model)
    height, width, _ = model.picture
    made = compress.outpaint(model, given, {"right": 1.0, "bottom": 0.5}, label=3, count=2, seed=5)
    token = height // (model.shape.scales[-1] if model.shape.scales else model.shape.grid[0])
    assert made.shape[1:3] == (height + -(-height // (2 * token)) * token, 2 * width), "rounded up to whole tokens"
    assert all(np.array_equal(each[:height, :width], given) for each in made)
    assert np.array_equal(made[:1], compress.outpaint(model, given, {"right": 1.0, "bottom": 0.5}, label=3, seed=5))
    assert not np.array_equal(made[0], made[1])
    other = compress.outpaint(model, given, {"right": 1.0, "bottom": 0.5}, label=3, seed=6)
    assert not np.array_equal(made[:1], other)


def test_one_window_of_outpainting_is_the_lower_half_that_generate_completes(tiny_model) -> None:
    """Grey levels are encoded pixel by pixel, so an independent call with the same tokens must give the same pixels."""
    from export.runtime.drawing import Known

    for kind in ("causal", "masked"):
        model = model_of(kind, tiny_model)
        given = given_to(model)
        made = compress.outpaint(model, given, {"bottom": 0.5}, label=3, seed=5, blend=0)[0]
        assert made.shape[0] == 12
        tokens = np.zeros((1, 64), dtype=np.int64)
        tokens[0, :32] = model.encode_images(given[None])[0, 32:]
        known = Known(tokens, np.arange(64) < 32)
        first = 2**32  # of the second window: the first one is the picture
        drawn = model.decode_images(model.draw_tokens(np.array([3]), 5, SAMPLER, known=known, first=first))[0]
        assert np.array_equal(made[8:], drawn[4:])


def test_pictures_larger_than_the_grid_go_on_in_windows_that_overlap(tiny_model) -> None:
    model = model_of("masked", tiny_model)
    assert places((8, 16), model, 0.5) == [(0, 0), (0, 4), (0, 8)]
    assert places((8, 9), model, 0.0) == [(0, 0), (0, 1)], "one token in common at least"
    large = np.random.default_rng(1).integers(0, 256, (13, 20, 1), dtype=np.uint8)
    made = compress.outpaint(model, large, {"left": 0.25}, own_size=True, label=3)
    assert made.shape == (1, 13, 25, 1)
    assert np.array_equal(made[0, :, 5:], large)
    scaled = compress.outpaint(model, large, {"left": 0.25}, label=3)
    assert scaled.shape == (1, 8, 15, 1), "8 x 12, and three to the left"
    with pytest.raises(InputError, match=r"^the result would have 6 x 4 pixels, and this model's pictures have 8 x 8"):
        compress.outpaint(model, large[:4, :4], {"left": 0.5}, own_size=True)
    with pytest.raises(InputError, match=r"^the result would have 4109 x 8 pixels; a side has at most 4096"):
        compress.outpaint(model, np.zeros((8, 4104, 1), np.uint8), {"left": 0.001}, own_size=True)


def test_windows_with_most_that_is_done_are_drawn_first(tiny_model) -> None:
    model = model_of("masked", tiny_model)
    canvas = Canvas(np.zeros((1, 8, 24, 1), np.uint8), np.zeros((8, 24), dtype=bool))
    canvas.done[:, 16:] = True
    turns: list[tuple[int, int]] = []
    drawn = fill(canvas, model, wish_of(model, "3", 1, None, 0, 0, {}), 0.5, 0, report=lambda *n: turns.append(n))
    assert (drawn, turns[-1]) == (4, (5, 5)), "the last one is there"
    assert canvas.done.all()


def test_a_model_continues_the_sides_that_its_tokens_come_behind(tiny_model) -> None:
    model = model_of("causal", tiny_model)
    assert free_sides(model.shape) == {"right", "bottom"}
    assert free_sides(model_of("masked", tiny_model).shape) == {"left", "right", "top", "bottom"}
    with pytest.raises(InputError) as caught:
        compress.outpaint(model, given_to(model), {"left": 0.5})
    assert str(caught.value) == (
        "--extend left: this model draws token by token, each behind those before it, so tokens there would not see "
        "the picture; it continues bottom and right, a masked model all"
    )


def test_sides_are_read_and_wrong_ones_refused() -> None:
    assert parsed_sides("right=0.5, top=0.25") == {"right": 0.5, "top": 0.25}
    assert parsed_sides("all=1") == dict.fromkeys(("left", "right", "top", "bottom"), 1.0)
    for text, line in (
        ("right", "--extend 'right': is not like right=0.5 or left=0.5,top=0.25"),
        ("rihgt=1", "--extend: 'rihgt' is no side; did you mean 'right'?"),
        ("left=1,all=1", "--extend 'left=1,all=1': says left twice"),
        ("left=nan", "--extend left=nan: is out of range; it must be more than 0 and at most 16"),
        ("left=0", "--extend left=0: is out of range; it must be more than 0 and at most 16"),
    ):
        with pytest.raises(InputError) as caught:
            parsed_sides(text)
        assert str(caught.value) == line


def test_drawn_pixels_begin_with_the_given_ones_and_come_to_themselves() -> None:
    done = np.zeros((1, 6), dtype=bool)
    done[0, :2] = True
    given, drawn = np.full((1, 1, 6, 1), 100, np.uint8), np.full((1, 1, 6, 1), 60, np.uint8)
    drawn[0, 0, 3] = 250
    made = joined(given, drawn, done, nearest_of(done), 3)[0, 0, :, 0]
    assert made.tolist() == [100, 100, 60 + 30, 255, 60 + 10, 60], "40 apart: three, two and one quarter of it"


@pytest.mark.parametrize("kind", ["masked", "next-scale"])
def test_an_enlarged_picture_made_small_again_is_the_picture(kind: str, tiny_model) -> None:
    model = model_of(kind, tiny_model)
    side, channels = model.picture[0], model.picture[2]
    # Soft enough that no pixel has to leave 0 to 255.
    small = np.random.default_rng(2).integers(96, 160, (side // 2 + 1, side // 2 + 2, channels), dtype=np.uint8)
    made = compress.upscale(model, small, label=3, count=2, seed=5)
    assert made.shape == (2, 2 * small.shape[0], 2 * small.shape[1], channels)
    blocks = made.reshape(2, small.shape[0], 2, small.shape[1], 2, channels).mean(axis=(2, 4))
    assert np.abs(blocks - small).mean() < 1
    assert np.array_equal(made[:1], compress.upscale(model, small, label=3, seed=5))
    assert not np.array_equal(made[0], made[1])
    free = compress.upscale(model, small, label=3, seed=5, free=True)
    assert np.abs(free.astype(int) - made[:1]).mean() > 1
    assert compress.upscale(model, small, 3, label=3).shape[1] == 3 * small.shape[0]


def test_back_projection_ends_at_the_means_of_the_small_picture() -> None:
    drawn = np.random.default_rng(3).integers(60, 200, (16, 16, 3), dtype=np.uint8)
    small = np.random.default_rng(4).integers(110, 140, (8, 8, 3), dtype=np.uint8)
    means = consistent(drawn, small).reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(means - small).max() <= 1


def test_what_stays_of_an_enlarged_picture(tiny_model) -> None:
    image = Image.new("L", (8, 8))
    masked, scales = model_of("masked", tiny_model), model_of("next-scale", tiny_model)
    stays = tokens_that_stay(masked, image, 2, 0.25, None, 0)
    assert set(np.flatnonzero(stays)) == set(halton_order((8, 8))[:16])
    assert tokens_that_stay(scales, image, 2, None, 3, 0).sum() == 1 + 1 + 4
    assert tokens_that_stay(scales, image, 2, None, None, 0).sum() == 1 + 1 + 4 + 9, "a 3 x 3 scale fits into half of 7"
    var = Shape("next-scale", 17, 3, (16, 16), scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16), latent_width=4)
    assert [seen_scales(var, pixels, 256) for pixels in (4, 64, 128, 256)] == [1, 4, 7, 10]
    for model, keep, count, line in (
        (masked, None, 2, "--scales 2: this model has none; --keep says which share of its tokens stays"),
        (scales, 0.5, None, "--keep 0.5: this model draws scale by scale; --scales says how many stay"),
        (scales, None, 6, "--scales 6: is out of range; this model has 5"),
    ):
        with pytest.raises(InputError) as caught:
            tokens_that_stay(model, image, 2, keep, count, 0)
        assert str(caught.value) == line
    with pytest.raises(InputError, match=r"^upscale: this model draws token by token, so most detail would be drawn"):
        compress.upscale(model_of("causal", tiny_model), given_to(masked))


def test_a_model_without_encoder_cannot_see_a_picture(tiny_model, monkeypatch) -> None:
    model = model_of("masked", tiny_model)

    def encode(self: ImageModel, images: np.ndarray) -> np.ndarray:
        raise ValueError("the checkpoint only decodes")

    monkeypatch.setattr(ImageModel, "encode_images", encode)
    with pytest.raises(InputError, match=r"^picture: cannot become tokens: the checkpoint only decodes"):
        compress.vary(model, given_to(model))


@pytest.mark.parametrize(
    ("verb", "given", "line"),
    [
        ("vary", {"keep": 2.0}, "keep 2.0: must be at most 1"),
        ("vary", {"keep": float("nan")}, "keep nan: must be a number"),
        ("vary", {"count": -1}, "count -1: must be at least 1"),
        ("vary", {"blend": -1}, "blend -1: must be at least 0"),
        ("vary", {"where": "middle"}, "where 'middle': is none; known: first, random, spread"),
        ("upscale", {"factor": 0}, "factor 0: must be at least 2"),
        ("upscale", {"keep": -1}, "keep -1: must be at least 0"),
        ("upscale", {"overlap": 1.0}, "overlap 1.0: must be at most 0.95"),
        ("upscale", {"blend": -3}, "blend -3: must be at least 0"),
        ("outpaint", {"extend": {"right": 0.5}, "overlap": float("nan")}, "overlap nan: must be a number"),
        ("outpaint", {"extend": {"right": 0.5}, "blend": 0.5}, "blend 0.5: must be a whole number"),
    ],
)
def test_numbers_that_are_out_of_range_are_refused(verb: str, given: dict[str, Any], line: str, tiny_model) -> None:
    model = model_of("masked", tiny_model)
    with pytest.raises(InputError) as caught:
        getattr(compress, verb)(model, given_to(model), **given)
    assert str(caught.value) == line


def test_a_class_may_be_a_number_of_numpy(tiny_model) -> None:
    model = model_of("masked", tiny_model)
    assert np.array_equal(*(compress.vary(model, given_to(model), label=label) for label in (3, np.int64(3))))

"""Every step of sampling on logits small enough to work by hand, and the noise against its distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from export.runtime.choosing import Choice, choose, guide
from export.runtime.cuts import TopK, TopP
from export.runtime.drawing import LogitsDrawer, draw
from export.runtime.errors import UnsoundLogitsError
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler, halton_order, masked_share
from export.runtime.shape import Shape

NOTHING = -np.inf


def drawn(step, labels, sampler: Sampler = Sampler(), seed: int = 0, length: int = 3) -> np.ndarray:  # noqa: B008
    """Tokens of a model of 4 tokens and 2 classes."""
    shape = Shape("causal", 4, 2, (1, length))
    return draw(LogitsDrawer(Feeder(step), shape), np.array(labels), shape, sampler, seed)


class Feeder:
    """A runner of a function from tokens (R, 1) to logits (R, V), whose first tokens are the classes."""

    def __init__(self, step) -> None:
        self.function = step

    def begin(self, labels: np.ndarray, features: np.ndarray | None = None, prompt: np.ndarray | None = None):
        return self.step(labels[:, None] + 4)

    def step(self, tokens: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        return self.function(tokens)[:, None]


def flat(tokens: np.ndarray) -> np.ndarray:
    """A model without opinions."""
    return np.zeros((len(tokens), 4), dtype=np.float32)


def chosen(logits: np.ndarray, sampler: Sampler, seed: int = 0) -> np.ndarray:
    """One token for each row of logits (B, V)."""
    choice = Choice.at(sampler, Noise(seed, len(logits)), 0, 1, (1, logits.shape[1]))
    return choose(logits[:, None], choice).tokens[:, 0]


class Recorder:
    """A model that notes what it is fed and gives the same logits for each row at every step."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits, self.fed = np.array(logits, dtype=np.float32), []

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        self.fed.append(tokens.tolist())
        return self.logits


def test_a_sampler_keeps_what_is_not_changed() -> None:
    sampler = Sampler(cfg_scale=2.0, temperature=0.5, top_k=3, top_p=0.9)
    assert sampler.changed() == sampler
    assert sampler.changed(cfg_scale=1.0) == Sampler(1.0, 0.5, 3, 0.9)
    assert sampler.changed(temperature=0.0, top_k=0) == Sampler(2.0, 0.0, 0, 0.9)
    assert sampler.changed(top_p=1.0) == Sampler(2.0, 0.5, 3, 1.0)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"cfg_scale": -1.0}, "cfg_scale -1.0: must be at least 0"),
        ({"temperature": -0.1}, "temperature -0.1: must be at least 0"),
        ({"top_k": -1}, "top_k -1: must be at least 0"),
        ({"top_p": 0.0}, "top_p 0.0: must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p 1.1: must be above 0 and at most 1"),
        ({"guidance_power": -1.0}, "guidance_power -1.0: must be at least 0"),
        ({"choice_temperature": -1.0}, "choice_temperature -1.0: must be at least 0"),
        ({"steps": 0}, "steps 0: must be at least 1"),
        ({"end_temperature": 0.0}, "temperature 1.0 to 0.0: both must be above 0"),
        ({"end_temperature": 1.0, "temperature": 0.0}, "temperature 0.0 to 1.0: both must be above 0"),
        ({"end_temperature": 1e-30}, "temperature 1.0 to 1e-30: both must be above 0"),
        ({"end_temperature": np.nan}, "end_temperature nan: must be a number"),
        *(
            ({name: value}, f"{name} {value}: must be {wanted}")
            for name in ("cfg_scale", "temperature", "guidance_power", "choice_temperature")
            for value, wanted in ((np.nan, "a number"), (np.inf, "at most 1e+06"), (-np.inf, "at least 0"))
        ),
        ({"cfg_scale": 10**400}, f"cfg_scale {10**199}...: must be at most 1e+06"),
        ({"temperature": "1"}, "temperature '1': must be a number"),
        ({"temperature": True}, "temperature True: must be a number"),
        ({"top_p": np.nan}, "top_p nan: must be a number"),
        ({"top_p": np.inf}, "top_p inf: must be above 0 and at most 1"),
        ({"top_k": 2.0}, "top_k 2.0: must be a whole number"),
        ({"top_k": 2**31}, "top_k 2147483648: must be at most 2147483647"),
        ({"steps": 2**16 + 1}, "steps 65537: must be at most 65536"),
        ({"steps": 10**5000}, "steps a number of thousands of digits: must be at most 65536"),
        ({"reveal": "x" * 300}, f"reveal '{'x' * 199}...: must be one of halton, confidence, logit, random"),
    ],
)
def test_a_sampler_out_of_range_is_refused_with_its_value(wrong, text) -> None:
    for make in (Sampler, Sampler().changed):
        with pytest.raises(ValueError, match="must be") as error:
            make(**wrong)
        assert str(error.value) == text


@pytest.mark.parametrize("cold", [1e-300, 5e-324, 1e-46, 9e-21])
def test_a_temperature_that_float32_cannot_divide_by_takes_the_likeliest(cold) -> None:
    logits = np.array([[1, 3, 3, 0], [-200, -100, 2000, 1999]], dtype=np.float32)
    assert Sampler(temperature=cold).temperature_at(2, 5) == 0
    assert Sampler(choice_temperature=cold).choice_at(0, 2) == 0
    for seed in range(5):
        assert chosen(logits, Sampler(temperature=cold, top_k=3, top_p=0.5), seed).tolist() == [1, 2]


def test_the_lowest_temperature_that_counts_divides_large_logits_without_overflow() -> None:
    logits = np.array([[1e6, -1e6, 1.5e6, 0]], dtype=np.float32)
    for sampler in (Sampler(temperature=1e-20), Sampler(temperature=1e-20, top_k=2), Sampler(temperature=1e6)):
        choice = Choice.at(sampler, Noise(0, 1), 0, 1, (1, 4))
        found = choose(logits[:, None], choice, with_sureness=True)
        assert np.isfinite(found.log_probability).all()
    assert chosen(logits, Sampler(temperature=1e-20, top_p=0.9)).tolist() == [2]


@pytest.mark.parametrize("share", [1e-46, 5e-324, 1e-30])
def test_a_top_p_that_is_nothing_in_float32_keeps_the_likeliest_alone(share) -> None:
    logits = np.array([[0.0, 2.0, 2.0, 1.0]], dtype=np.float32)
    assert TopP().keep(logits, share).tolist() == [[NOTHING, 2.0, NOTHING, NOTHING]]
    assert [chosen(logits, Sampler(top_p=share), seed).item() for seed in range(5)] == [1] * 5


@pytest.mark.parametrize(("wrong", "said"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(temperature=0), Sampler(top_k=2), Sampler(top_p=0.5)])
def test_logits_that_nothing_can_be_drawn_from_are_an_error_and_no_token(wrong, said, sampler) -> None:
    logits = np.array([[1, 2, 3, 4], [1, 2, wrong, 4]], dtype=np.float32)
    with np.errstate(invalid="ignore"), pytest.raises(UnsoundLogitsError, match="the model's logits hold") as error:
        chosen(logits, sampler)
    assert said in str(error.value) or sampler.top_p < 1  # a sum of infinite weights is NaN
    assert "its weights are damaged, or a layer overflows" in str(error.value)


def test_tokens_that_a_model_rules_out_are_no_error() -> None:
    logits = np.array([[NOTHING, 2.0, NOTHING, 1.0]], dtype=np.float32)
    for sampler in (Sampler(temperature=0), Sampler(top_k=2, top_p=0.9)):
        assert chosen(logits, sampler).item() in (1, 3)


def test_only_a_scale_of_one_is_no_guidance() -> None:
    assert not Sampler(cfg_scale=1.0).guided
    assert Sampler(cfg_scale=0.0).guided
    assert Sampler(cfg_scale=1.5).guided


def test_a_picture_begins_with_its_class_and_goes_on_with_its_own_tokens() -> None:
    model = Recorder([[0, 9, 0, 0], [0, 0, 0, 9]])
    assert drawn(model, [1, 0], Sampler(temperature=0)).tolist() == [[1, 1, 1], [3, 3, 3]]
    assert model.fed == [[[5], [4]], [[1], [3]], [[1], [3]]]  # class c is token 4 + c


def test_guidance_feeds_the_null_class_below_and_extrapolates_from_it() -> None:
    # null + 2 * (guided - null) = [2, 1, 0, 0]: token 0 wins, though guided alone and null alone take token 1.
    model = Recorder([[2, 2.5, 0, 0], [2, 4, 0, 0]])
    assert drawn(model, [1], Sampler(cfg_scale=2.0, temperature=0), length=2).tolist() == [[0, 0]]
    assert model.fed == [[[5], [6]], [[0], [0]]]  # class 1, the null class; then the token for both


def test_guidance_of_zero_is_the_null_class_alone() -> None:
    model = Recorder([[9, 0, 0, 0], [0, 0, 9, 0]])
    assert drawn(model, [1], Sampler(cfg_scale=0.0, temperature=0), length=1).tolist() == [[2]]


def test_temperature_zero_takes_the_first_of_the_likeliest_whatever_the_seed() -> None:
    logits = np.array([[1, 3, 3, 0]], dtype=np.float32)
    assert [chosen(logits, Sampler(temperature=0, top_p=0.1), seed).item() for seed in range(5)] == [1] * 5


def test_top_k_keeps_ties_with_the_last_it_keeps() -> None:
    logits = np.array([[3.0, 1.0, 2.0, 2.0], [0.0, 5.0, 4.0, 3.0]])
    expected = [[3.0, NOTHING, 2.0, 2.0], [NOTHING, 5.0, 4.0, NOTHING]]
    assert TopK().keep(logits, 2).tolist() == expected


def test_top_k_of_at_least_the_vocabulary_changes_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    plain = chosen(logits, Sampler())
    assert (chosen(logits, Sampler(top_k=4)) == plain).all()
    assert (chosen(logits, Sampler(top_k=9)) == plain).all()


def test_top_k_of_one_takes_the_likeliest() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert (chosen(logits, Sampler(top_k=1)) == logits.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("share", "kept"),
    [(0.4, [1]), (0.5, [1]), (0.55, [1, 3]), (0.8, [1, 3]), (0.85, [0, 1, 3]), (0.99, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_that_holds_the_share(share, kept) -> None:
    # Exact binary numbers would make the edges exact; these shares lie off the edges or just inside of them.
    logits = np.log(np.array([[0.15, 0.500001, 0.05, 0.299999 + 1e-6]]))
    result = TopP().keep(logits, share)
    assert np.flatnonzero(np.isfinite(result[0])).tolist() == kept
    assert (result[0, kept] == logits[0, kept]).all()


def test_top_p_always_keeps_the_likeliest_and_treats_rows_apart() -> None:
    result = TopP().keep(np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]), 1e-9)
    assert result.tolist() == [[NOTHING, 9.0, NOTHING], [0.0, NOTHING, NOTHING]]


def test_top_p_holds_the_share_after_temperature() -> None:
    # At temperature 0.5 the shares 0.6 and 0.4 become 0.36 / 0.52 = 0.69 and 0.31, so 0.65 keeps the first alone.
    logits = np.log(np.array([[0.6, 0.4]], dtype=np.float32))
    cold = [chosen(logits, Sampler(temperature=0.5, top_p=0.65), seed).item() for seed in range(40)]
    warm = [chosen(logits, Sampler(top_p=0.65), seed).item() for seed in range(40)]
    assert set(cold) == {0}
    assert set(warm) == {0, 1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_softmax_says(temperature) -> None:
    logits, count = np.array([0.0, 1.0, -1.0, 2.0], dtype=np.float32), 4000
    step = lambda tokens: np.tile(logits, (len(tokens), 1))  # noqa: E731
    tokens = drawn(step, [0] * (count // 4), Sampler(temperature=temperature), seed=5, length=4)
    weights = np.exp(logits.astype(np.float64) / temperature)
    found = np.bincount(tokens.ravel(), minlength=4)
    # The seed is fixed, so this either always holds or never; 0.01 is what one seed in a hundred would miss.
    assert stats.chisquare(found, count * weights / weights.sum()).pvalue > 0.01


def test_the_noise_of_a_picture_does_not_depend_on_the_others() -> None:
    many = drawn(flat, [0, 1, 0, 1, 0], seed=3, length=20)
    assert (drawn(flat, [0, 1], seed=3, length=20) == many[:2]).all()
    assert len({tuple(row) for row in many.tolist()}) == 5


def test_guidance_does_not_change_the_noise() -> None:
    assert (drawn(flat, [0, 1], Sampler(cfg_scale=3.0), length=20) == drawn(flat, [0, 1], length=20)).all()


def test_equal_seeds_give_equal_tokens_and_others_do_not() -> None:
    first, again, other = (drawn(flat, [0, 1], seed=seed, length=20) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0, 3], "label 3 is not a class; the model draws 0 to 1 (2 is unconditional)"),
        ([-1], "label -1 is not a class; the model draws 0 to 1 (2 is unconditional)"),
        (np.zeros(0, dtype=np.int64), "labels of shape (0,): need one class for each picture, at least one"),
        ([[0]], "labels of shape (1, 1): need one class for each picture, at least one"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, text) -> None:
    with pytest.raises(ValueError, match="label") as error:
        drawn(flat, labels)
    assert str(error.value) == text


def test_the_null_class_can_be_drawn() -> None:
    assert drawn(flat, [2]).shape == (1, 3)


# Schedules, by hand


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({"guidance": "constant"}, [5, 5, 5, 5]),
        ({"guidance": "linear"}, [1, 1 + 4 / 3, 1 + 8 / 3, 5]),
        # 1 + 4 (1 - cos(pi x^p)) / 2 at x = 0, 1/4, 1/2, 3/4; cos 0, pi/4, pi/2, 3 pi/4
        ({"guidance": "power-cosine"}, [1, 3 - 2**0.5, 3, 3 + 2**0.5]),
        # x^2 = 0, 1/16, 1/4, 9/16
        (
            {"guidance": "power-cosine", "guidance_power": 2.0},
            [1, 3 - 2 * np.cos(np.pi / 16), 3 - 2**0.5, 3 - 2 * np.cos(9 * np.pi / 16)],
        ),
    ],
)
def test_guidance_grows_as_its_schedule_says(changes, scales) -> None:
    sampler = Sampler(cfg_scale=5.0, **changes)
    assert [sampler.scale_at(step, 4) for step in range(4)] == pytest.approx(scales)


def test_guidance_of_a_single_step_begins_at_none() -> None:
    assert Sampler(cfg_scale=5.0, guidance="linear").scale_at(0, 1) == 1
    assert Sampler(cfg_scale=5.0, guidance="constant").scale_at(0, 1) == 5


def test_guidance_is_applied_to_every_position_of_a_step() -> None:
    rows = np.array([[[2.0, 4.0], [1.0, 0.0]], [[1.0, 5.0], [0.0, 0.0]]], dtype=np.float32)  # given, null
    assert guide(rows, 1, 1.0).tolist() == [[[2.0, 4.0], [1.0, 0.0]]]
    assert guide(rows, 1, 3.0).tolist() == [[[4.0, 2.0], [3.0, 0.0]]]  # null + 3 (given - null)
    assert guide(rows, 2, 3.0) is rows


def test_the_inverse_of_the_temperature_is_linear() -> None:
    sampler = Sampler(temperature=1.0, end_temperature=0.25)  # inverses 1, 2, 3, 4
    assert [sampler.temperature_at(step, 4) for step in range(4)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert sampler.temperature_at(0, 1) == 1
    assert [Sampler(temperature=0.7).temperature_at(step, 3) for step in range(3)] == [0.7] * 3


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [1, 0.75, 0.5, 0]),
        ("square", [1, 1 - 1 / 16, 0.75, 0]),
        ("cosine", [1, np.cos(np.pi / 8), 0.5**0.5, 0]),
        ("arccos", [1, np.arccos(0.25) * 2 / np.pi, 2 / 3, 0]),
    ],
)
def test_a_schedule_says_what_share_is_still_masked(schedule, shares) -> None:
    assert [masked_share(schedule, done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(shares, abs=1e-12)


@pytest.mark.parametrize("grid", [(16, 16), (3, 5), (1, 1), (24, 24), (64, 64)])
def test_the_halton_order_visits_every_cell_once(grid) -> None:
    order = halton_order(grid)
    assert sorted(order.tolist()) == list(range(grid[0] * grid[1]))


def test_the_halton_order_begins_as_its_points_do() -> None:
    # Rows by base 2: 1/2, 1/4, 3/4, 1/8; columns by base 3: 1/3, 2/3, 1/9, 4/9. On a grid of 4 x 3:
    # (2, 1), (1, 2), (3, 0), (0, 1)
    assert halton_order((4, 3))[:4].tolist() == [7, 5, 9, 1]


def test_the_halton_order_spreads_the_first_cells_over_the_picture() -> None:
    first = halton_order((16, 16))[:64]
    quarters = np.bincount((first // 16 // 8) * 2 + first % 16 // 8, minlength=4)
    assert quarters.min() >= 14


INSIDE = Sampler(cfg_scale=2.0, temperature=0.9, guidance="linear", guidance_inside=True)


def test_guidance_that_is_inside_takes_one_row_and_is_not_applied_again():
    assert not INSIDE.guided
    assert INSIDE.with_guidance_outside().guided
    assert [INSIDE.scale_at(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]
    assert [INSIDE.guidance_at(step, 3) for step in range(3)] == [1.0, 1.5, 2.0]
    assert INSIDE.with_guidance_outside().with_guidance_inside() == INSIDE


def test_what_is_not_guidance_can_be_changed_where_guidance_is_inside():
    changed = INSIDE.changed(temperature=0.5, top_k=3, cfg_scale=2.0)
    assert (changed.temperature, changed.top_k, changed.guidance_inside) == (0.5, 3, True)
    wanted = Sampler(cfg_scale=2.0, guidance="linear", top_p=0.5)
    assert INSIDE.admitted(wanted) == Sampler(cfg_scale=2.0, guidance="linear", top_p=0.5, guidance_inside=True)
    assert INSIDE.admitted(None) is INSIDE
    assert Sampler().admitted(wanted) is wanted


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cfg_scale": 3.0}, "cfg_scale 3.0: cfg_scale 2.0 is inside this model"),
        ({"cfg_scale": 1.0}, "cfg_scale 1.0: cfg_scale 2.0 is inside this model"),
        ({"guidance": "ramp"}, "guidance 'ramp': guidance linear is inside this model"),
    ],
)
def test_another_guidance_than_the_one_inside_is_refused(given, text):
    ending = ", which draws with no other; leave it out"
    with pytest.raises(ValueError, match="is inside") as caught:
        INSIDE.changed(**given)
    assert str(caught.value) == text + ending
    with pytest.raises(ValueError, match="is inside"):
        INSIDE.admitted(Sampler(**{"cfg_scale": 2.0, "guidance": "linear", **given}))


def test_guidance_inside_needs_a_scale_and_a_model_that_has_it():
    with pytest.raises(ValueError, match="that is no guidance; say which scale is inside"):
        Sampler(guidance_inside=True)
    with pytest.raises(ValueError, match="guidance_inside 1: must be true or false"):
        Sampler(cfg_scale=2.0, guidance_inside=1)
    with pytest.raises(ValueError, match="no guidance is inside this model; it is drawn with two rows"):
        Sampler(cfg_scale=2.0).admitted(INSIDE)


def test_guidance_is_applied_in_its_interval_alone() -> None:
    limited = Sampler(cfg_scale=3.0, guidance_start=1, guidance_stop=3)
    assert [limited.scale_at(step, 5) for step in range(5)] == [1, 3, 3, 1, 1]
    grown = Sampler(cfg_scale=3.0, guidance="linear", guidance_start=2)
    assert [grown.scale_at(step, 5) for step in range(5)] == [1, 1, 2, 2.5, 3], "it grows over all steps"
    assert limited.with_guidance_inside().guidance_at(0, 5) == 1
    assert [each.spares_rows for each in (limited, grown, Sampler(cfg_scale=3.0), Sampler(guidance_stop=3))] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"guidance_start": -1}, "guidance_start -1: must be at least 0"),
        ({"guidance_stop": 0}, "guidance_stop 0: must be at least 1"),
        ({"guidance_stop": 2.5}, "guidance_stop 2.5: must be a whole number"),
        (
            {"guidance_start": 4, "guidance_stop": 4},
            "guidance_stop 4: must be above guidance_start 4; cfg_scale 1 is no guidance",
        ),
    ],
)
def test_an_interval_that_holds_no_step_is_refused(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        Sampler(**wrong)
    assert str(error.value) == text

import gc

import numpy as np
import pytest

from compress.measure.speed.timing import (
    NO_CHANGE,
    TOO_NOISY,
    Timings,
    balanced,
    changed,
    paired,
    spread,
    timed,
    warm_up,
    words,
)


class Clock:
    """A clock that only the runners move."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def runner(self, name, *seconds):
        """A runner that takes these times in turn, the last one for ever."""
        left = list(seconds)

        def run():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_medians_and_speedups_are_those_of_the_runners():
    clock = Clock()
    timings = paired({"slow": clock.runner("slow", 0.3), "fast": clock.runner("fast", 0.1)}, 10, clock=clock)
    assert timings.median_ms("slow").value == pytest.approx(300)
    found = timings.speedup("fast", "slow")
    assert (found.value, *found.ci95) == pytest.approx((3, 3, 3))


def test_a_speedup_is_the_median_of_the_ratios_of_the_same_round():
    timings = Timings({"a": (1, 2, 3, 4, 5, 6), "b": (2, 4, 6, 8, 10, 18)})
    found = timings.speedup("a", "b")
    assert (found.value, *found.ci95) == (2, 2, 3)


def test_every_round_runs_every_runner_once_in_an_order_that_changes_and_is_seeded():
    def orders(seed):
        clock = Clock()
        paired({name: clock.runner(name, 1.0) for name in "abc"}, 12, seed=seed, clock=clock)
        calls = clock.calls[-36:]
        return [tuple(calls[i : i + 3]) for i in range(0, 36, 3)]

    assert all(sorted(order) == ["a", "b", "c"] for order in orders(0))
    assert len(set(orders(0))) > 3
    assert orders(0) == orders(0) != orders(1)


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
def test_each_runner_is_at_every_place_equally_often(names):
    orders = list(balanced(list(names), 12 * len(names), seed=3))
    for place in range(len(names)):
        assert all([order[place] for order in orders].count(name) == 12 for name in names)
    some = list(balanced(list(names), 7, seed=3))
    assert len(some) == 7
    assert some == orders[:7]


def test_warm_up_ends_when_nobody_gets_faster_and_at_the_latest_after_eight_rounds():
    clock = Clock()
    assert warm_up({"steady": clock.runner("steady", 1.0)}, clock) == 2
    assert warm_up({"cold": clock.runner("cold", 9.0, 3.0, 1.0, 1.0)}, clock) == 4
    assert warm_up({"never": clock.runner("never", *0.5 ** np.arange(20))}, clock) == 8


def test_warm_up_is_not_timed():
    clock = Clock()
    timings = paired({"cold": clock.runner("cold", 9.0, 1.0)}, 6, clock=clock)
    assert timings.seconds["cold"] == (1.0,) * 6


def test_a_spent_budget_ends_the_rounds_but_never_before_the_sixth():
    clock = Clock()
    assert len(paired({"a": clock.runner("a", 1.0)}, 50, budget_s=10.5, clock=clock).seconds["a"]) == 9
    assert len(paired({"a": clock.runner("a", 1.0)}, 50, budget_s=0, clock=clock).seconds["a"]) == 6


def test_garbage_collection_is_off_while_timing_and_on_again_after_an_error():
    seen = []
    paired({"a": lambda: seen.append(gc.isenabled())}, 6)
    assert not any(seen)
    assert gc.isenabled()

    def fail():
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        paired({"a": fail}, 6)
    assert gc.isenabled()


def test_progress_is_reported_round_by_round():
    seen = []
    paired({"a": lambda: None}, 6, report=lambda done, rounds: seen.append((done, rounds)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_too_few_repeats_or_runners_are_refused():
    with pytest.raises(ValueError, match="1 runners, 5 repeats: need at least 1 and 6"):
        paired({"a": lambda: None}, 5)
    with pytest.raises(ValueError, match="0 runners, 20 repeats"):
        paired({})


def test_a_row_holds_times_per_token_and_images_per_second_and_compares_with_others_only():
    timings = Timings({"own": (0.064,) * 6, "first": (0.128,) * 6, "eager": (0.64,) * 6})
    row = timings.row("own", runtime="cpu", batch=8, length=64, reference="first", previous="own", baseline="eager")
    assert (row.median_ms, row.ms_per_token, row.images_per_second) == pytest.approx((64, 1, 125))
    assert row.speedup_vs_reference == pytest.approx(2)
    assert row.speedup_vs_reference_ci95 == pytest.approx((2, 2))
    assert row.speedup_vs_baseline == pytest.approx(10)
    assert row.speedup_vs_previous is None
    assert row.speedup_vs_previous_ci95 is None


def test_an_interval_that_holds_one_is_no_measurable_change():
    assert words(1.02, (0.99, 1.05)) == "no measurable change"
    assert words(1.2, (1.1, 1.3)) == "1.20x"
    assert words(None, None) == "–"
    assert [changed(ci95) for ci95 in ((0.9, 0.99), (0.9, 1.0), (1.0, 1.2), (1.01, 1.2))] == [True, False, False, True]


def test_the_real_clock_sees_a_longer_loop_as_slower():
    timings = paired({"short": lambda: sum(range(2_000)), "long": lambda: sum(range(40_000))}, 12)
    assert timings.speedup("short", "long").low > 3
    assert timed(lambda: None, Clock()) == 0


def test_noise_and_outliers_are_those_of_the_median():
    seconds = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 9.0])
    p95, noise, outliers = spread(seconds)
    assert p95 == np.quantile(seconds, 0.95)
    assert noise == pytest.approx(1.4826 * 0.05)
    assert outliers == 1
    assert spread(np.ones(6)) == (1.0, 0.0, 0)
    row = Timings({"a": tuple(seconds)}).row("a", runtime="cpu", batch=1, length=4)
    assert (row.outliers, row.noise, row.p95_ms) == (outliers, noise, 1e3 * p95)


def test_runners_rest_before_each_timed_call_and_not_in_it(monkeypatch):
    clock, rests = Clock(), []
    monkeypatch.setattr("compress.measure.speed.timing.time.sleep", rests.append)
    timings = paired({"own": clock.runner("own", 1.0)}, 7, rest_s=0.05, clock=clock)
    assert rests == [0.05] * 7
    assert timings.seconds["own"] == (1.0,) * 7


def test_an_interval_reaches_to_the_medians_of_both_halves():
    # Ratios 2 x 8, then 0.5 x 8: the exact interval of the median of 16 is that of the 4th and 13th of them.
    timings = Timings({"a": (1.0,) * 20, "b": (1.2,) * 14 + (0.9,) * 6})
    found = timings.speedup("a", "b")
    assert (found.value, *found.ci95) == (1.2, 0.9, 1.2)
    assert words(found.value, found.ci95) == TOO_NOISY, "the first 14 rounds alone would claim 1.2x"


def test_what_holds_one_is_told_from_what_is_too_wide_to_tell():
    assert words(1.01, (0.99, 1.03)) == NO_CHANGE
    assert words(1.01, (0.9, 1.2)) == TOO_NOISY
    assert words(3.0, (2.0, 4.0)) == "3.00x"


def test_noisy_rounds_go_on_until_they_tell_or_patience_ends():
    def rounds(*seconds, patience=3):
        clock = Clock()
        runners = {"same": clock.runner("same", 1.0), "noisy": clock.runner("noisy", *seconds)}
        return len(paired(runners, 8, clock=clock, patience=patience).seconds["same"])

    assert rounds(1.0) == 8
    assert rounds(2.0) == 8, "2x is told at once"
    for_ever = [1.0, *[0.5, 2.0] * 40]
    assert rounds(*for_ever) == 24
    assert rounds(*for_ever, patience=1) == 8
    # One round warms up; after 8 noisy ones the rest agree, and of 14 the exact interval leaves out three at each end.
    assert 8 < rounds(1.0, *[0.5, 2.0] * 2, *[1.0] * 60) <= 24


def test_runners_are_opened_anew_every_second_round_and_an_opening_is_one_value():
    clock, opened = Clock(), []
    runners = {"a": clock.runner("a", 1.0), "b": clock.runner("b", 2.0)}
    timings = paired(runners, 12, clock=clock, renew=lambda: opened.append(clock.now))
    assert (len(opened), timings.together) == (5, 2), "behind every second round but the last"
    opened.clear()
    timings = paired(runners, 7, clock=clock, renew=lambda: opened.append(clock.now))
    assert (len(opened), timings.together) == (6, 1), "an interval needs six openings"
    # Six openings of two rounds each: what one opening gave twice is not two values.
    ratios = (1.0, 1.0, 1.1, 1.1, 1.2, 1.2, 1.3, 1.3, 1.4, 1.4, 1.5, 1.5)
    found = Timings({"a": (1.0,) * 12, "b": ratios}, 2).speedup("a", "b")
    assert (found.value, *found.ci95) == pytest.approx((1.25, 1.0, 1.5))

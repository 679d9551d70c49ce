"""Paired timing: runners interleaved in one process, compared by the median of their ratios round by round.

A machine's speed wanders by more than most passes win. Runners of one round share that round's conditions, so the ratio
inside a round is much steadier than either time, and its median has an exact interval. That interval takes rounds for
independent, which they are not where the machine's load comes and goes; so it reaches to the medians of both halves of
the rounds too, and nothing is claimed on which the halves disagree.

An engine that is opened twice may be 5 % faster or slower than itself all the while it stays open, likely by where its
memory lies (Mytkowicz et al., Producing Wrong Data Without Doing Anything Obviously Wrong!, ASPLOS 2009). Runners that
can be opened anew are, every few rounds, and then what one opening gave is one value.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.quantity import Limit, quantity
from compress.measure.speed.drawing import Rounds
from compress.measure.statistics import FEWEST_VALUES, Estimate, median

WARMUP_ROUNDS = 8  # at most; caches, allocators and clock speed settle within two or three
STILL_FASTER = 0.95  # a warm-up round that beats all earlier ones by more than 5 % says that there is more to come
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
FAR = 3.0
REST_S = 0.05  # OpenMP's threads go on spinning for about 20 ms after PyTorch has drawn, on cores that others need
NOISY = 0.1  # above this a row's own times say little, and only paired ratios do
NO_CHANGE, TOO_NOISY = "no measurable change", "too noisy to tell"
WIDE = 1.1  # the ends of an interval that holds 1, high / low: above it a change of 5 % would not show
RENEWED = 2  # rounds between openings
PATIENCE = 3  # times the rounds that were asked for, where it is too noisy to tell
SPEED_VERSION = 7  # goes up when rows of speed change their meaning


@dataclass(frozen=True)
class SpeedRow:
    """How fast one engine drew batches of whole pictures, alone and against others timed in the same rounds."""

    runtime: str = setting(doc="what ran it, e.g. onnxruntime-cpu")
    batch: int = setting(doc="pictures drawn at once", low=1)
    median_ms: float = setting(doc="median time to draw the batch, milliseconds")
    ci95: tuple[float, float] = setting(doc="exact interval of that median, milliseconds")
    ms_per_token: float = quantity(
        doc="median_ms divided by the tokens of a picture: one step for the whole batch",
        unit="ms",
        gate=Limit("latency_ms", "most time per token step, milliseconds, at the smallest batch"),
    )
    images_per_second: float = setting(doc="batch divided by the median time")
    speedup_vs_reference: float | None = quantity(
        None,
        doc="median of reference time / own time; null for itself",
        unit="times",
        better="higher",
        gate=Limit("speedup", "least speedup over the reference on the same runtime"),
    )
    speedup_vs_reference_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    speedup_vs_previous: float | None = setting(None, doc="the same against the previous step; null for the first")
    speedup_vs_previous_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    speedup_vs_baseline: float | None = setting(None, doc="the same against eager PyTorch; null where not timed")
    speedup_vs_baseline_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    peak_mib: float | None = quantity(
        None,
        doc="peak resident memory of a fresh process that draws one such batch, MiB",
        unit="MiB",
        gate=Limit("peak_mib", "most peak memory of the engine's process, MiB"),
    )
    p95_ms: float | None = setting(None, doc="95th percentile of the rounds, milliseconds")
    noise: float | None = setting(None, doc="scaled median absolute deviation of the rounds divided by their median")
    first_tokens_ms: float | None = setting(None, doc="median time until the first step's tokens are there")
    first_tokens_ms_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    last_tokens_ms: float | None = setting(None, doc="median time until all tokens are there, the picture not decoded")
    last_tokens_ms_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    joules_per_picture: float | None = setting(
        None, doc="median energy of the processors' packages by RAPL; null where it cannot be read"
    )
    joules_per_picture_ci95: tuple[float, float] | None = setting(None, doc="its exact interval")
    outliers: int = setting(0, doc="rounds further than 3 scaled median absolute deviations from the median", low=0)


@dataclass(frozen=True)
class Timings:
    """Seconds of every runner in every round; entry i of all runners is of round i.

    `together` rounds, one behind the other, share what the runners were opened with.
    """

    seconds: Mapping[str, tuple[float, ...]]
    together: int = 1

    def median_ms(self, name: str) -> Estimate:
        """Median time of a runner in milliseconds."""
        return median(1e3 * np.array(self.seconds[name]))

    def speedup(self, candidate: str, baseline: str) -> Estimate:
        """How many times faster the candidate is: the median over rounds of baseline time / candidate time.

        Of rounds that share an opening their median counts. The interval is the exact one of the median, and reaches to
        the medians of the first and the second half.
        """
        ratios = np.array(self.seconds[baseline]) / np.array(self.seconds[candidate])
        openings = len(ratios) // self.together
        ratios = np.median(ratios[: openings * self.together].reshape(openings, self.together), axis=1)
        found, halves = median(ratios), [float(np.median(half)) for half in np.array_split(ratios, 2)]
        return Estimate(found.value, min(found.low, *halves), max(found.high, *halves))

    def row(
        self,
        name: str,
        *,
        runtime: str,
        batch: int,
        length: int,
        reference: str | None = None,
        previous: str | None = None,
        baseline: str | None = None,
        peak_mib: float | None = None,
        rounds: Rounds | None = None,
    ) -> SpeedRow:
        """The report's row of a runner that draws `batch` pictures of `length` tokens at each call.

        `reference`, `previous` and `baseline` name the runners that it is compared with; with itself it is not.
        `rounds` are what the runner noted inside of its timed calls.
        """
        own = self.median_ms(name)
        p95, noise, outliers = spread(np.array(self.seconds[name]))
        over_reference, over_previous, over_baseline = (
            self.speedup(name, other) if other and other != name else None for other in (reference, previous, baseline)
        )
        inside: dict[str, Estimate] = {}
        if rounds is not None:
            inside["first_tokens_ms"] = median(1e3 * rounds.first)
            inside["last_tokens_ms"] = median(1e3 * rounds.last)
            if len(rounds.joules):
                inside["joules_per_picture"] = median(rounds.joules / batch)
        return SpeedRow(
            runtime=runtime,
            batch=batch,
            median_ms=own.value,
            ci95=own.ci95,
            ms_per_token=own.value / length,
            images_per_second=1e3 * batch / own.value,
            speedup_vs_reference=over_reference.value if over_reference else None,
            speedup_vs_reference_ci95=over_reference.ci95 if over_reference else None,
            speedup_vs_previous=over_previous.value if over_previous else None,
            speedup_vs_previous_ci95=over_previous.ci95 if over_previous else None,
            speedup_vs_baseline=over_baseline.value if over_baseline else None,
            speedup_vs_baseline_ci95=over_baseline.ci95 if over_baseline else None,
            peak_mib=peak_mib,
            p95_ms=1e3 * p95,
            noise=noise,
            outliers=outliers,
            **{name: found.value for name, found in inside.items()},  # type: ignore[arg-type]
            **{f"{name}_ci95": found.ci95 for name, found in inside.items()},  # type: ignore[arg-type]
        )


def spread(seconds: NDArray[np.float64]) -> tuple[float, float, int]:
    """95th percentile, noise and outliers of rounds (N,).

    Noise is the median absolute deviation, scaled to the standard deviation of a normal distribution, divided by the
    median: a few disturbed rounds do not move it.
    """
    middle = float(np.median(seconds))
    deviation = MAD_TO_DEVIATION * float(np.median(np.abs(seconds - middle)))
    far = int((np.abs(seconds - middle) > FAR * deviation).sum()) if deviation else 0
    return float(np.quantile(seconds, 0.95)), deviation / middle, far


def paired(
    runners: Mapping[str, Callable[[], object]],
    repeats: int = 20,
    *,
    seed: int = 0,
    rest_s: float = 0.0,
    budget_s: float = math.inf,
    patience: int = 1,
    renew: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[int, int], None] = lambda done, rounds: None,
) -> Timings:
    """Time the runners in `repeats` rounds, each round running every one of them once.

    The order is drawn anew, and balanced: in as many rounds as there are runners each stands at every place once, since
    what ran before leaves caches and clock speed behind for what runs next.

    Before that they warm up until no runner gets faster any more, at most 8 rounds. Garbage collection is off while
    timing. Before each timed call there is a rest of `rest_s` seconds: REST_S is right where PyTorch is one of the
    runners. Rounds stop early once `budget_s` seconds are spent, but never before the 6 that an interval needs. Where
    it is too noisy to tell how a runner compares with the first, they go on to at most `patience` times as many.
    `renew` opens the runners anew; where it is given it is called every 2 rounds, or every round where there are fewer
    than 12, so that an interval has its 6 openings.

    Raises:
        ValueError: no runner, or fewer than 6 repeats.
    """
    if not runners or repeats < FEWEST_VALUES:
        raise ValueError(f"{len(runners)} runners, {repeats} repeats: need at least 1 and {FEWEST_VALUES}")
    collecting, started = gc.isenabled(), clock()
    together = RENEWED if renew and repeats >= RENEWED * FEWEST_VALUES else 1
    gc.collect()
    gc.disable()
    try:
        warm_up(runners, clock)
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for done, order in enumerate(balanced(list(runners), patience * repeats, seed)):
            if done >= together * FEWEST_VALUES and clock() - started > budget_s:
                break
            if done >= repeats and done % len(runners) == 0 and told(seconds, together):
                break
            if renew is not None and done and done % together == 0:
                renew()
            for name in order:
                time.sleep(rest_s)
                seconds[name].append(timed(runners[name], clock))
            report(done + 1, max(repeats, done + 1))
    finally:
        if collecting:
            gc.enable()
    return Timings({name: tuple(values) for name, values in seconds.items()}, together)


def told(seconds: Mapping[str, Sequence[float]], together: int) -> bool:
    """Whether these rounds tell how every runner compares with the first."""
    first, *others = seconds
    timings = Timings({name: tuple(values) for name, values in seconds.items()}, together)
    return not any(too_noisy(timings.speedup(name, first).ci95) for name in others)


def balanced(names: Sequence[str], rounds: int, seed: int) -> Iterator[list[str]]:
    """Orders of the names for so many rounds: the rows of Latin squares, each drawn anew."""
    generator, count = np.random.Generator(np.random.Philox(seed)), len(names)
    for start in range(0, rounds, count):
        drawn = [names[index] for index in generator.permutation(count)]
        for turn in generator.permutation(count)[: rounds - start]:
            yield drawn[turn:] + drawn[:turn]


def warm_up(runners: Mapping[str, Callable[[], object]], clock: Callable[[], float]) -> int:
    """Run rounds until none is notably faster than the best before it; the number of rounds."""
    best = dict.fromkeys(runners, math.inf)
    for done in range(WARMUP_ROUNDS):
        latest = {name: timed(run, clock) for name, run in runners.items()}
        if all(latest[name] >= STILL_FASTER * best[name] for name in runners):
            return done + 1
        best = {name: min(best[name], latest[name]) for name in runners}
    return WARMUP_ROUNDS


def timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    start = clock()
    run()
    return clock() - start


def changed(ci95: tuple[float, float]) -> bool:
    """Whether an interval of a speedup leaves out 1."""
    return not ci95[0] <= 1 <= ci95[1]


def too_noisy(ci95: tuple[float, float]) -> bool:
    """Whether an interval of a speedup holds 1 and is so wide that a change might well be there."""
    return not changed(ci95) and ci95[1] > WIDE * ci95[0]


def words(speedup: float | None, ci95: tuple[float, float] | None) -> str:
    """A speedup as reports say it."""
    if speedup is None or ci95 is None:
        return "–"
    if changed(ci95):
        return f"{speedup:.2f}x"
    return TOO_NOISY if too_noisy(ci95) else NO_CHANGE

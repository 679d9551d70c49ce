"""Which trial is best, by engines timed beside each other: at its end a search compares those that could be it.

Trials are timed minutes or hours apart, and a machine's speed wanders by more than engines differ. So what could be the
best is timed once more, interleaved in one process with the reference's engine; the rounds decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from compress.core.lease import alone, working
from compress.core.settings import parse, plain, setting
from compress.measure.speed.drawing import Drawing
from compress.measure.speed.interleaved import interleaved
from compress.measure.speed.timing import Timings, words
from compress.measure.statistics import Estimate
from compress.models.candidate import open_candidate
from compress.searching.limits import LATENCY
from compress.searching.outcome import Number, Outcome, best
from compress.searching.study import Study
from compress.searching.workshop import Workshop
from export.runtime.counted import counted

MOST = 5  # trials that are compared; a round draws with the engine of each
FAR = 1.5  # as far two trials of one machine were seen to be from their order beside each other (docs/search.md)
BUDGET_S = 180.0  # no further round begins then, but for those that an interval needs
REFERENCE = "reference"


@dataclass(frozen=True)
class Compared:
    """One trial of a comparison."""

    trial: int = setting(doc="the trial's number", low=0)
    alone: Number = setting(doc="time as a share of the reference's, as it was timed in its trial")
    beside: Number = setting(doc="the same, timed in the same rounds as the other ones")
    speed: Number | None = setting(None, doc="speed as a share of the fastest one's, in these rounds; null of itself")

    def words(self) -> str:
        """How it compares with the fastest one."""
        if self.speed is None or self.speed.ci95 is None:
            return "the fastest"
        low, high = self.speed.ci95
        return f"{words(self.speed.value, self.speed.ci95)} ({low:.2f} to {high:.2f}) against the fastest"


@dataclass(frozen=True)
class Comparison:
    """Trials timed beside each other, the fastest first."""

    rows: tuple[Compared, ...] = setting(doc="every trial that was compared, the fastest first")
    batch: int = setting(doc="pictures drawn at once", low=1)
    rounds: int = setting(doc="rounds, in each of which every engine drew once", low=1)
    known: int = setting(doc="how many trials had begun before: one with a higher number was not considered", low=0)

    @property
    def numbers(self) -> dict[int, Compared]:
        """The rows by their trial."""
        return {each.trial: each for each in self.rows}

    def lines(self) -> list[str]:
        """What it says, a line for each trial."""
        first, *others = self.rows
        head = (
            f"beside each other, {counted(self.rounds, 'round')} at batch {self.batch}: trial {first.trial} is the "
            f"fastest, {first.beside.value:.3f} of the reference's time"
        )
        return [head, *(f"  trial {each.trial}: {each.beside.value:.3f}; {each.words()}" for each in others)]


def kept_comparison(study: Study) -> Comparison | None:
    """The comparison that a study keeps."""
    found = study.compared
    return None if found is None else parse(Comparison, found, f"{study.path}: comparison")


def applied(outcomes: Sequence[Outcome], compared: Comparison | None) -> list[Outcome]:
    """The outcomes, with the times of a comparison in place of those of single trials."""
    rows = compared.numbers if compared else {}
    return [with_time(each, rows[each.number].beside) if each.number in rows else each for each in outcomes]


def with_time(outcome: Outcome, time: Number) -> Outcome:
    """An outcome whose first objective, which is the time, is another one."""
    return replace(outcome, found={**outcome.found, LATENCY: time}, values=(time.value, *outcome.values[1:]))


def fastest(outcomes: Sequence[Outcome], compared: Comparison | None) -> Outcome | None:
    """The best of outcomes to which a comparison was `applied`: one that was compared, or one that came later."""
    if compared is None:
        return best(outcomes)
    rows = compared.numbers
    return best([each for each in outcomes if each.number in rows or each.number >= compared.known])


def deciding(compared: Comparison | None, winner: Outcome | None) -> Comparison | None:
    """The comparison, unless a later trial is faster than all of it by so much that none was made anew."""
    return None if compared and winner and winner.number not in compared.numbers else compared


def candidates(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that could be the fastest that keep every budget, by their times: at most `MOST`, the likeliest first.

    A trial could be where its interval overlaps that of the fastest one, or its time is at most `FAR` times as long.
    """
    kept = sorted((each for each in outcomes if each.kept), key=lambda each: (*each.values, each.number))
    if not kept:
        return []
    first = kept[0].found[LATENCY]
    most = max(FAR * first.value, (first.ci95 or (0.0, first.value))[1])
    return [each for each in kept if low_end(each.found[LATENCY]) <= most][:MOST]


def low_end(time: Number) -> float:
    """The favourable end of a time."""
    return time.ci95[0] if time.ci95 else time.value


def undecided(shop: Workshop, study: Study) -> list[Outcome]:
    """The trials that have to be timed beside each other: none where time is not what decides, or nothing is new."""
    if shop.goal.objectives[0].name != LATENCY:
        return []
    compared = kept_comparison(study)
    found = candidates(applied(study.outcomes(), compared))
    new = compared is None or any(each.number >= compared.known for each in found)
    return found if len(found) > 1 and new else []


def compare(shop: Workshop, study: Study) -> Comparison | None:
    """Time the trials that could be best beside each other where that is to be done, and keep it in the study.

    Raises:
        InputError: an engine that is gone cannot be made again, or the disk is full.
    """
    if not (chosen := undecided(shop, study)):
        return None
    singly = {each.number: each.found[LATENCY] for each in study.outcomes() if each.kept}
    names = {str(each.number): each.number for each in chosen}
    timings, batch = timed_together(shop, chosen)
    order = sorted(names, key=lambda name: share(timings, name).value)
    first, *others = order
    speeds = {name: number_of(timings.speedup(name, first)) for name in others}
    rows = (Compared(names[each], singly[names[each]], share(timings, each), speeds.get(each)) for each in order)
    known = 1 + max(each.number for each in study.outcomes())
    made = Comparison(tuple(rows), batch, len(timings.seconds[first]), known)
    study.compare(plain(made))
    return made


def timed_together(shop: Workshop, chosen: Sequence[Outcome]) -> tuple[Timings, int]:
    """The rounds of the engines of these trials, by their numbers, and of the reference's; and their batch."""
    bench, say = shop.first.recipe.bench, shop.listener.say
    batch = min(bench.batch)
    with working():
        folders = {str(each.number): shop.engine_of(each.picked)[1].folder for each in chosen}
        folders[REFERENCE] = shop.first.making.make(shop.first.making.deployed(shop.first.plan.reference)).folder
        conditions = shop.first.given.conditions(batch)
        runners = {name: Drawing(open_candidate(each, bench.threads), *conditions) for name, each in folders.items()}
    title = f"time {counted(len(chosen), 'trial')} beside each other"
    with alone(say), shop.listener.work(title) as progress:
        timings = interleaved(
            runners, folders, bench.repeats, bench.threads, BUDGET_S, lambda done, of: progress(done, of, {}), say
        )
    return timings, batch


def share(timings: Timings, name: str) -> Number:
    """The time of an engine as a share of the reference's in the same rounds."""
    found = timings.speedup(name, REFERENCE)
    return Number(1 / found.value, (1 / found.high, 1 / found.low))


def number_of(estimate: Estimate) -> Number:
    """An estimate as outcomes hold it."""
    return Number(estimate.value, estimate.ci95)

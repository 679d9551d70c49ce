"""What a self-test found, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scipy.stats import binom

from compress.core.settings import setting
from compress.measure import Measure, own
from compress.measure.statistics import share
from compress.recipe.gates import keys
from compress.verifying.selftest.trial import Caught

LEAST_PLACED = 0.95  # of the faults above the floor
MOST_FALSE = 0.05  # of the trials, for each set of gates
EXPECTED_MISSED = 0.05  # of 95 % intervals
UNUSUAL = 0.001  # chance of so many missed intervals, or so few, of an honest verifier
EVIDENCE = "evidence"
# Measures that no fault needs: why nothing would be lost without them. One that is in here and needed is an error too.
REDUNDANT: Mapping[str, str] = {
    "plans": "it reads the builder's own list of kernels; the self-test builds no plans, so nothing is planted there",
}


@dataclass(frozen=True)
class Quiet:
    """Trials with an engine that is as it should be."""

    edit: str = setting(doc="the harmless edit; 'none' of a sound engine as it was made")
    base: str = setting(doc="the sound engine that it was done to")
    gates: str = setting(doc="the set of gates that is for such engines")
    trials: int = setting(doc="trials, each with other pictures and noise", low=1)
    rang: tuple[str, ...] = setting(doc="what rang: of each false alarm its measurements")
    named: str = setting(doc="the place that `bisect` named; empty if none")


@dataclass(frozen=True)
class SelfTest:
    """The whole trial."""

    faults: tuple[Caught, ...] = setting(doc="every planted fault")
    quiet: tuple[Quiet, ...] = setting(doc="engines that nothing is wrong with")
    trials: int = setting(doc="pairs of random halves of the same scores", low=1)
    intervals_missed: int = setting(
        doc="of these, those in which the 95 % interval of the difference left out 0; 5 of 100 are expected", low=0
    )
    seconds: float = setting(doc="processor time", low=0)

    @property
    def counted(self) -> tuple[Caught, ...]:
        """The faults that must be found."""
        return tuple(each for each in self.faults if each.above)

    @property
    def missed(self) -> tuple[Caught, ...]:
        """Those that were not noticed."""
        return tuple(each for each in self.counted if not each.caught)

    @property
    def misplaced(self) -> tuple[Caught, ...]:
        """Those that were not named where they are."""
        return tuple(each for each in self.counted if not each.placed)

    def false_alarms(self, gates: str) -> tuple[int, int]:
        """False alarms of a set of gates, and trials."""
        of_set = [each for each in self.quiet if each.gates == gates]
        return sum(len(each.rang) for each in of_set), sum(each.trials for each in of_set)

    @property
    def few_false_alarms(self) -> bool:
        """Whether each set of gates rang as seldom as is stated."""
        return all(rang <= MOST_FALSE * trials for rang, trials in map(self.false_alarms, self.sets))

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets of gates that were tried."""
        return tuple(dict.fromkeys(each.gates for each in self.quiet))

    @property
    def intervals_usual(self) -> tuple[int, int]:
        """Fewest and most missed intervals that an honest verifier has."""
        ends = (binom.ppf(chance, self.trials, EXPECTED_MISSED) for chance in (UNUSUAL, 1 - UNUSUAL))
        fewest, most = (int(each) for each in ends)
        return fewest, most

    @property
    def intervals_hold(self) -> bool:
        """Whether 95 % intervals are neither too narrow nor too wide."""
        fewest, most = self.intervals_usual
        return fewest <= self.intervals_missed <= most

    @property
    def unneeded(self) -> tuple[str, ...]:
        """Measures that could be blinded and no fault would be missed, though no reason is known."""
        return tuple(name for name, seen in only_seen_by(self.counted).items() if not seen and name not in REDUNDANT)

    @property
    def passed(self) -> bool:
        """Whether it found what it must, said nothing where nothing is, and would notice if a measure went blind."""
        placed = len(self.misplaced) <= (1 - LEAST_PLACED) * len(self.counted)
        return not self.missed and placed and self.few_false_alarms and self.intervals_hold and not self.unneeded

    def words(self) -> Iterator[str]:
        """The result in a few lines."""
        count = len(self.counted)
        below = len(self.faults) - count
        yield f"caught {count - len(self.missed)} of {count}; placed {count - len(self.misplaced)} of {count}" + (
            f"; {below} below the floor" if below else ""
        )
        for gates in self.sets:
            rang, trials = self.false_alarms(gates)
            most = share(rang, trials).high
            yield f"false alarms of the {gates} gates: {rang} of {trials} (95 % interval up to {100 * most:.2g} %)"
        fewest, most_missed = self.intervals_usual
        yield (
            f"95 % intervals of the difference of two halves of the same scores left out 0 in {self.intervals_missed} "
            f"of {self.trials}; {fewest} to {most_missed} are usual"
        )
        for each in self.missed:
            yield f"missed: {each.fault} ({each.base})"
        for each in self.misplaced:
            yield f"misplaced: {each.fault} ({each.base}): in {each.named or 'nothing'}, not {each.places[0]}"
        for name in self.unneeded:
            yield f"blinding {name} would go unnoticed: plant a fault that only it sees"


def always() -> list[type[Measure]]:
    """This package's measures that `verify` makes whatever the gates."""
    return [each for each in own() if each.verified == "always"]


def measure_of() -> dict[str, str]:
    """The measure behind each measurement that a breach may name."""
    found = {EVIDENCE: EVIDENCE}
    for key in keys():
        if key.measure in always():
            assert key.measure is not None
            found[key.limit.key] = key.measure.name
    for measure in always():
        found.update(dict.fromkeys(measure.promises, measure.name))
    return found


def only_seen_by(faults: tuple[Caught, ...]) -> dict[str, list[Caught]]:
    """Of every measure of `verify` the faults that no other noticed: without it they would be missed."""
    behind = measure_of()
    found: dict[str, list[Caught]] = {name: [] for name in dict.fromkeys(behind.values())}
    for each in faults:
        seen = {behind.get(name, name) for name in each.noticed}
        if len(seen) == 1 and (name := seen.pop()) in found:
            found[name].append(each)
    return found

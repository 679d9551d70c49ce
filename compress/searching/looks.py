"""Looks at a trial while it is made: drift of a few pictures may say that it cannot keep its budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.lease import working
from compress.core.settings import digest
from compress.measure.drift.fidelity import Fidelity
from compress.measure.quantity import Finding
from compress.recipe.gates import Key
from compress.recipe.plan import Node
from compress.recipe.recipe import describe
from compress.searching.goal import excess
from compress.searching.outcome import hopeless
from compress.searching.row import Stopped
from compress.searching.workshop import FEW

if TYPE_CHECKING:
    from compress.searching.trial import Trial


def before_training(trial: Trial, at: int) -> None:
    """Rehearse what is behind, and do not train what started as far off as one that did not come back.

    Raises:
        Stopped: it started as far off as one that did not come back.
    """
    rest = trial.nodes[at:]
    if not all(trial.shop.store.contains(node.key) for node in rest):
        trial.shop.rehearse(trial.recipe, rest, trial.run)
    if (key := next(iter(fidelities(trial)), None)) is None:
        return
    source = trial.nodes[at].source
    assert source is not None
    if source is trial.plan.reference:
        return
    finding = finding_of_few(trial, source, key)
    steps = [*trial.recipe.steps, *(step for engine in trial.recipe.engines for step in engine.steps)]
    trial.row.start = finding.value if key.quantity.better == "lower" else -finding.value
    trial.row.training = digest([describe(step) for step in steps[at:]])
    other = hopeless(trial.row.start, trial.row.training, key.limit.key, trial.before)
    if other is not None:
        trial.row.excess = max(other.excess, excess(key, finding.value, getattr(trial.gate, key.limit.key)))
        text = (
            f"{trial.name}: {key.limit.key} {key.quantity.words(finding.value)} in front of its training; trial "
            f"{other.number} began with no more, was trained alike, and ended beyond the budget"
        )
        trial.row.lacks.append(text)
        raise Stopped(text)


def fidelities(trial: Trial) -> list[Key]:
    """The limits on drift that a few pictures can show."""
    return [key for key, _ in trial.goal.judged() if key.measure is Fidelity and key.limit.evidence]


def finding_of_few(trial: Trial, node: Node, key: Key) -> Finding:
    """Drift of a few pictures."""
    with working():
        found = Fidelity.measured(trial.few.subject(node))
    assert found is not None
    low, high = getattr(found, f"{key.field}_ci95")
    return Finding(getattr(found, key.field), (low, high))


def first_look(trial: Trial, node: Node) -> None:
    """Stop where even the favourable end of the drift of a few pictures is beyond its limit.

    Raises:
        Stopped: it is.
    """
    for key in fidelities(trial):
        limit, finding = getattr(trial.gate, key.limit.key), finding_of_few(trial, node, key)
        low, high = finding.interval or (finding.value, finding.value)
        end = high if key.quantity.better == "higher" else low
        if excess(key, end, limit) > 0:
            trial.row.excess = excess(key, finding.value, limit)
            trial.row.judged.append(key.limit.key)
            trial.row.breached.append(key.limit.key)
            trial.row.note(key.limit.key, finding)
            words = key.quantity.words
            text = (
                f"{trial.name}: {key.limit.key} {words(finding.value)} on {FEW} pictures, the favourable end of the "
                f"95 % interval {words(end)}; the budget is {words(limit)}"
            )
            trial.row.lacks.append(text)
            raise Stopped(text)

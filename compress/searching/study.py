"""The study: Optuna's, in an SQLite file beside the store's artifacts; it proposes combinations and keeps outcomes.

Several trials may be in work at once. One process asks and tells; what is in work is proposed to nobody else, and the
sampler takes it for no better than what is known (Optuna's constant liar).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.locks import EXCLUSIVE, Lock
from compress.core.settings import InputError, digest, parse, plain
from compress.searching.outcome import Outcome
from compress.searching.space import BETWEEN, Choice, Space

if TYPE_CHECKING:
    import optuna

INSTALL = "pip install 'optuna>=5'"
NAME = "search"
OUTCOME = "outcome"  # the attribute of a trial
WARM, SECONDS, COMPARED = "warm", "seconds", "compared"  # attributes of a study
ATTEMPTS = 50  # proposals that were tried before, until a search ends
FEWEST_MEASURED = 4  # trials; of fewer, all choices are said to decide alike
STARTUP = 6  # trials that are drawn at random before the sampler follows what it saw; a trial takes minutes


@dataclass(frozen=True)
class Warm:
    """Combinations to begin with, behind the space's first, and what is said of them; none where nothing is known."""

    picked: tuple[dict[str, Any], ...] = ()
    said: str = ""


def require() -> None:
    """See that Optuna is there.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(f"search needs Optuna ({error}); {INSTALL}") from error


class Study:
    """A study that this process works at, until `close`. Every outcome that was told is in the file."""

    def __init__(self, path: Path, space: Space, objectives: int, seed: int, warm: Callable[[], Warm] = Warm) -> None:
        """Open the study in a file, or make it with a warm start; what was killed in it is asked for again.

        Raises:
            InputError: another process works at it, or the file is no study.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed, self.path = space, seed, path
        self.in_work: dict[int, tuple[optuna.trial.Trial, dict[str, Any]]] = {}  # what was asked for, by its number
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = Lock(path.with_suffix(".lock"))
        if not self.lock.take(EXCLUSIVE, wait=None):
            raise InputError(f"{path}: another search works at this study; wait for it, or search in another --store")
        if not path.exists():
            self.create(objectives, warm())
        self.storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        self.study = optuna.load_study(study_name=NAME, storage=self.storage, sampler=self.sampler(0))
        self.begin_again()

    def create(self, objectives: int, warm: Warm) -> None:
        """Make the file whole, then give it its name: a kill leaves no half one."""
        import optuna

        draft = self.path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{draft}")
        made = optuna.create_study(storage=storage, study_name=NAME, directions=["minimize"] * objectives)
        for picked in (self.space.first(), *warm.picked):
            made.enqueue_trial(self.parameters(picked))
        made.set_user_attr(WARM, warm.said)
        storage.engine.dispose()
        draft.replace(self.path)

    @property
    def seconds(self) -> float:
        """Time that trials took so far, as it was `spent`."""
        return float(self.study.user_attrs.get(SECONDS, 0.0))

    def spent(self, seconds: float) -> None:
        """Keep the time that trials took so far."""
        self.study.set_user_attr(SECONDS, round(seconds, 3))

    @property
    def compared(self) -> Any:
        """What was kept last of how the best trials compare; None before that."""
        return self.study.user_attrs.get(COMPARED)

    def compare(self, found: Any) -> None:
        """Keep how the best trials compare, as plain data."""
        self.study.set_user_attr(COMPARED, found)

    @property
    def warm(self) -> str:
        """What the study began with."""
        return str(self.study.user_attrs.get(WARM, ""))

    def close(self) -> None:
        """Let others work at it."""
        self.storage.engine.dispose()
        self.lock.release()

    def begin_again(self) -> None:
        """Begin again what a process left unfinished when it was killed, before anything new is proposed."""
        from optuna.trial import TrialState

        for each in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if params := {**each.system_attrs.get("fixed_params", {}), **each.params}:
                self.study.enqueue_trial(params)
            self.study.tell(each.number, state=TrialState.FAIL)

    def parameters(self, picked: Mapping[str, Any]) -> dict[str, Any]:
        """A combination as Optuna's parameters."""
        return {
            each.name: picked[each.name] if each.kind == BETWEEN else each.labels[each.values.index(picked[each.name])]
            for each in self.space.asked(picked)
        }

    def outcomes(self) -> list[Outcome]:
        """What the finished trials came to."""
        found = []
        for each in self.study.get_trials(deepcopy=False):
            if each.state.is_finished() and each.state.name != "FAIL" and OUTCOME in each.user_attrs:
                found.append(parse(Outcome, json.loads(each.user_attrs[OUTCOME]), f"{self.path}: trial {each.number}"))
        return found

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """A combination that was not tried and is not in work, and its trial's number; None if there is none."""
        from optuna.trial import TrialState

        known = {digest(each.picked) for each in self.outcomes()} | {digest(each) for _, each in self.in_work.values()}
        if len(known) >= self.space.size:
            return None
        for attempt in range(ATTEMPTS):
            self.study.sampler = self.sampler(len(self.study.get_trials(deepcopy=False)), attempt)
            trial = self.study.ask()
            try:
                picked = self.suggested(trial)
            except ValueError:  # of BruteForceSampler, where a trial was killed before it had all its parameters
                picked = {}
            if picked and digest(picked) not in known:
                self.in_work[trial.number] = trial, picked
                return trial.number, picked
            self.study.sampler = self.sampler(0)
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def suggested(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """What the sampler picks for each choice that counts."""
        picked: dict[str, Any] = {}
        for each in self.space.asked(picked):
            picked[each.name] = each.value(suggestion(trial, each))
        return picked

    def tell(self, number: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial in work; one that was stopped or refused is pruned."""
        from optuna.trial import TrialState

        trial, _ = self.in_work[number]
        self.study.sampler = self.sampler(0)  # another one may want to stop a loop that this is not
        trial.set_user_attr(OUTCOME, json.dumps(plain(outcome)))
        trial.set_constraint("budget", outcome.excess)
        if outcome.state == "measured":
            self.study.tell(trial, values=outcome.values)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)
        del self.in_work[number]

    def sampler(self, trials: int, attempt: int = 0) -> optuna.samplers.BaseSampler:
        """What proposes the next combination.

        Its seed follows from the number of trials, so a study is the same however often it was interrupted. Where the
        first proposal was tried before, the next ones are of what was not.
        """
        import optuna

        seed = int(digest("search", self.seed, trials)[:8], 16)
        with quiet():
            if attempt % 2:
                return optuna.samplers.BruteForceSampler(seed=seed, avoid_premature_stop=True)
            if attempt:
                return optuna.samplers.RandomSampler(seed=seed)
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)

    def importances(self, objective: int) -> dict[str, float]:
        """How much each choice decides an objective, by Optuna's evaluator; the sum is 1.

        Empty where too few trials were measured to say.
        """
        from optuna.importance import get_param_importances

        if sum(each.state == "measured" for each in self.outcomes()) < FEWEST_MEASURED:
            return {}
        with quiet():
            try:
                found = get_param_importances(self.study, target=lambda trial: trial.values[objective])
            except (ValueError, RuntimeError):  # all are equal
                return {}
        return {name: float(share) for name, share in found.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without a library's warnings: of what is experimental, and of too few values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def suggestion(trial: optuna.trial.Trial, choice: Choice) -> Any:
    """What a trial gets for one choice."""
    if choice.kind != BETWEEN:
        return trial.suggest_categorical(choice.name, choice.labels)
    low, high = choice.values[0], choice.values[-1]
    step = choice.values[1] - low
    if all(isinstance(each, int) for each in choice.values):
        return trial.suggest_int(choice.name, low, high, step=step)
    return trial.suggest_float(choice.name, low, high, step=float(f"{step:.12g}"))

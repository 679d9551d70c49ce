"""Class accuracy of drawn digits: how often a classifier recognises the class that was asked for.

Letters: N pictures, T tokens of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.quantity import Limit, quantity
from compress.measure.statistics import Estimate, share, share_difference

if TYPE_CHECKING:
    from sklearn.svm import SVC

    from compress.measure.subject import Given, Subject

DIGITS = "digits"  # the source of tokens that there is a classifier for

# Best of five-fold cross-validation on the train part alone, among copies moved by 0, 0.25 .. 1 pixels and gamma in
# 0.0005 .. 0.002 (grey levels 0 to 16): 99.4 %; without moved copies 99.1 %. C changes nothing from 1 to 100. The
# held-out pictures had no say.
SVC_C = 10.0
SVC_GAMMA = 0.001


@dataclass(frozen=True)
class ClassAccuracy(Measure):
    """Share of drawn pictures recognised as the class asked for: candidate's and reference's, of the same seeds."""

    name = "class_accuracy"
    version = 6
    stage = "engines"
    verified = "asked"

    pictures: int = setting(doc="pictures drawn by each", low=1)
    accuracy: float = quantity(
        doc="share of the candidate's pictures recognised as the class asked for",
        unit="percent",
        better="higher",
        gate=Limit("class_accuracy", "least share of drawn pictures recognised as the class asked for", high=1),
    )
    accuracy_ci95: tuple[float, float] = setting(doc="its Wilson interval")
    reference_accuracy: float = setting(doc="the same of the reference's pictures")
    reference_accuracy_ci95: tuple[float, float] = setting(doc="its Wilson interval")
    drop: float = quantity(
        doc="reference_accuracy - accuracy; 0.02 is 2 points, negative is better",
        unit="points",
        gate=Limit(
            "class_accuracy_drop", "most class accuracy lost, a share of the pictures: 2% is two points", high=1
        ),
    )
    drop_ci95: tuple[float, float] = setting(doc="its interval for paired pictures (Newcombe)")
    classifier_accuracy: float = setting(doc="the classifier's own accuracy on held-out pictures")
    classifier_accuracy_ci95: tuple[float, float] = setting(doc="its Wilson interval")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Digits alone: there is a classifier of them."""
        return subject.given.source == DIGITS

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """What both draw."""
        return *subject.keys, *subject.given.drawn

    @classmethod
    def run(cls, subject: Subject) -> ClassAccuracy:
        """Classify what both draw."""
        given = subject.given
        labels, _ = given.conditions(given.samples)
        return classifier(given).compare(subject.reference.drawn(), subject.candidate.drawn(), labels)


@dataclass(frozen=True)
class DigitClassifier:
    """A support-vector machine trained on real pictures, with its accuracy on held-out ones."""

    machine: SVC
    held_out: Estimate

    @classmethod
    def train(cls, tokens: TokenSet) -> DigitClassifier:
        """Learn the train part of the set (`calibration.tokens.digits()`); try it on the held-out part.

        Each picture is learnt five times, in place and moved by one pixel to each side ("virtual" examples, DeCoste and
        Schölkopf, Machine Learning 46, 2002), for what the machine shall know is a digit, not where it stands.
        """
        from sklearn.svm import SVC

        train, held_out = tokens.part("train"), tokens.part("held_out")
        examples = moved(train.tokens)
        machine = SVC(C=SVC_C, gamma=SVC_GAMMA).fit(examples, np.tile(train.labels, len(examples) // len(train)))
        right = machine.predict(held_out.tokens) == held_out.labels
        return cls(machine, share(int(right.sum()), len(right)))

    def recognised(self, tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pictures (N, T) look like their class (N,)."""
        return np.asarray(self.machine.predict(tokens) == labels)

    def accuracy(self, tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> Estimate:
        """Share of the pictures (N, T) that look like their class (N,)."""
        right = self.recognised(tokens, labels)
        return share(int(right.sum()), len(right))

    def compare(
        self, reference: NDArray[np.int64], candidate: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> ClassAccuracy:
        """Accuracy of two models' pictures (N, T), drawn for the same classes (N,) with the same seeds."""
        theirs, own = self.recognised(reference, labels), self.recognised(candidate, labels)
        accuracy = share(int(own.sum()), len(own))
        reference_accuracy = share(int(theirs.sum()), len(theirs))
        drop = share_difference(theirs, own)
        return ClassAccuracy(
            pictures=len(labels),
            accuracy=accuracy.value,
            accuracy_ci95=accuracy.ci95,
            reference_accuracy=reference_accuracy.value,
            reference_accuracy_ci95=reference_accuracy.ci95,
            drop=drop.value,
            drop_ci95=drop.ci95,
            classifier_accuracy=self.held_out.value,
            classifier_accuracy_ci95=self.held_out.ci95,
        )


def classifier(given: Given) -> DigitClassifier:
    """That of a comparison, trained once."""
    assert given.tokens is not None
    tokens = given.tokens
    return given.once("digit classifier", lambda: DigitClassifier.train(tokens))


def moved(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Square pictures (N, T), then the same moved by one pixel down, up, right and left (5N, T); 0 moves in."""
    side = math.isqrt(tokens.shape[1])
    padded = np.pad(tokens.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
    copies = [
        padded[:, 1 - down : 1 - down + side, 1 - right : 1 - right + side].reshape(len(tokens), -1)
        for down, right in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    ]
    return np.concatenate(copies)

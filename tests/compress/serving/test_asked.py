"""A body says what is drawn, and what it says wrongly is refused with one line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fake_engine import Fake

from compress.serving.asked import Asked, largest_body, read
from compress.serving.refusals import RefusedError
from export.runtime.shape import Shape, TextShape

NAMED = Shape("causal", vocabulary=256, classes=2, grid=(1, 2), class_names=("cat", "dog"))
UNLABELLED = Shape("causal", vocabulary=256, classes=0, grid=(1, 2))
TEXT = Shape("causal", vocabulary=256, classes=1, grid=(1, 2), text=TextShape(2, 3))


def asked(given: Any, shape: Shape | None = None, most: int = 4) -> Asked:
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    return read(body, Fake(shape=shape) if shape else Fake(), most)  # type: ignore[arg-type]


def test_a_body_says_class_count_seed_and_sampling() -> None:
    found = asked({"label": 3, "count": 2, "seed": 2**64 - 1, "temperature": 0.5, "top_k": None})
    assert (found.label, found.seed, found.request.seeds) == (3, 2**64 - 1, (2**64 - 1,) * 2)
    assert found.request.labels.tolist() == [3, 3]
    assert (found.request.sampler.temperature, found.request.sampler.top_k) == (0.5, 0)


def test_without_a_seed_each_request_has_another_that_every_reader_of_json_keeps() -> None:
    seeds = {asked({"label": 3}).seed for _ in range(20)}
    assert len(seeds) > 1
    assert max(seeds) < 2**53


def test_a_class_goes_by_its_number_its_name_or_none() -> None:
    assert [asked({"label": label}, NAMED).label for label in ("dog", 1, 2)] == [1, 1, 2]
    assert asked({}, UNLABELLED).label == 0


def test_features_of_a_text_are_those_of_every_picture() -> None:
    found = asked({"features": [[1, 2, 3], [4, 5, 6.5]], "count": 2}, TEXT).request.features
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == [[[1, 2, 3], [4, 5, 6.5]]] * 2
    assert largest_body(TEXT) == largest_body(UNLABELLED) + 32 * 6


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "body:1:1: not valid JSON: Expecting value"),
        (b'{"label": 3', "body:1:12: not valid JSON: Expecting ',' delimiter"),
        (b'{"label": 3, "label": 4}', "body: not valid JSON: key 'label' stands twice"),
        (b'{"temperature": NaN}', "body: not valid JSON: NaN is not a number in JSON"),
        (b"[" * 9000, "body: not valid JSON: nested deeper than 100 lists and mappings"),
        (b'{"label": "\xff"}', "body: not UTF-8 (byte 11)"),
    ],
)
def test_what_is_no_json_is_a_bad_request(body: bytes, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        asked(body)
    assert (refused.value.status, refused.value.text) == (400, said)


@pytest.mark.parametrize(
    ("given", "shape", "said"),
    [
        ([3], None, 'body: [3] is not a mapping like {"label": 3, "seed": 7}'),
        ({"lable": 3}, None, "unknown key 'lable'; did you mean 'label'?"),
        ({}, None, "label: needed, a class from 0 to 9, or 10 for no class"),
        ({"label": 11}, None, "label 11: must be at most 10"),
        ({"label": 1.5}, None, "label 1.5: must be a whole number"),
        ({"label": True}, None, "label True: must be a whole number"),
        ({"label": "cat"}, None, "label 'cat' is not a class; the classes of this model have numbers, no names"),
        ({"label": "dgo"}, NAMED, "label 'dgo' is not a class; did you mean 'dog'?"),
        ({"label": 0}, UNLABELLED, "label 0: this model draws no classes; leave it out"),
        ({"label": 3, "count": 5}, None, "count 5: must be at most 4"),
        ({"label": 3, "count": "2"}, None, "count '2': must be a whole number"),
        ({"label": 3, "seed": 2**64}, None, f"seed {2**64}: must be a whole number from 0 to {2**64 - 1}"),
        ({"label": 3, "temperature": [1]}, None, "temperature [1]: must be a number"),
        ({"label": 3, "steps": 4}, None, "steps 4: this model draws token by token; leave it out (it takes {heeded})"),
        ({"label": 3, "features": [[1]]}, None, "features: this model draws no texts; leave them out"),
        ({}, TEXT, "features: needed, 2 lists of 3 numbers"),
        ({"features": [[1, 2, 3], [4, 5]]}, TEXT, "features: not 2 lists of 3 numbers each"),
        ({"features": [[1, 2, 3], [4, 5, "x"]]}, TEXT, "features: not 2 lists of 3 numbers each"),
        ({"features": [[1, 2, 3], [4, 5, 1e300]]}, TEXT, "features of a text: each must be a finite number"),
        ({"label": 0, "features": [[1, 2, 3], [4, 5, 6]]}, TEXT, "label 0: this model draws no classes; leave it out"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_one_line(given: Any, shape: Shape | None, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        asked(given, shape)
    heeded = "cfg_scale, temperature, end_temperature, top_k, top_p"
    assert (refused.value.status, refused.value.text, refused.value.outcome) == (
        422, said.replace("{heeded}", heeded), "invalid"
    )  # fmt: skip

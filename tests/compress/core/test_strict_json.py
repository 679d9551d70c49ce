"""JSON, read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.core.strict_json import parse_json, read_json


def test_plain_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, true, "x"], "b": {}}')
    assert read_json(path) == {"a": [1, 2.5, None, True, "x"], "b": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json:1:1: not valid JSON: Expecting value"),
        ('{\n "a": x}', "a.json:2:7: not valid JSON: Expecting value"),
        ('{"a": 1, "b": 2, "a": 3}', "a.json: not valid JSON: key 'a' stands twice"),
        ("[NaN]", "a.json: not valid JSON: NaN is not a number in JSON"),
        ("-Infinity", "a.json: not valid JSON: -Infinity is not a number in JSON"),
        ("1e400", "a.json: not valid JSON: '1e400' is not a number that a float holds"),
        ("1" * 5000, "a.json: not valid JSON: a number of 5000 digits; at most 50 are read"),
        ("[" * 101 + "]" * 101, "a.json: not valid JSON: nested deeper than 100 lists and mappings"),
        ("[" * 100_000, "a.json: not valid JSON: nested deeper than 100 lists and mappings"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "a.json: not valid JSON: nested deeper than 100 lists and mappings"),
    ],
)
def test_what_is_not_read_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text, "a.json")
    assert str(caught.value) == message


def test_nesting_of_a_hundred_is_read() -> None:
    assert parse_json("[" * 100 + "]" * 100, "a.json") is not None

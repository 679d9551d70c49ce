"""YAML, read strictly: what could mean something else than it looks like, or never end, is refused with its place."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.core.strict_yaml import LIMIT_BYTES, NODES, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a remark", None),
        ("a: 1\nb: [x, 'y', ~, null]", {"a": 1, "b": ["x", "y", None, None]}),
        ("\ufeffa: yes\nb: off", {"a": True, "b": False}),
        ("[-3, 0, 0x1F, 0b11, 1_000, 1.5e+3, .5, -2.]", [-3, 0, 31, 3, 1000, 1500.0, 0.5, -2.0]),
        ("[.inf, -.Inf]", [math.inf, -math.inf]),
        ("[2001-99-99, 2001-12-14T21:59:43Z, 1e-3, 08, +.5, =]",
         ["2001-99-99", "2001-12-14T21:59:43Z", "1e-3", "08", "+.5", "="]),
        ("'1': a\n'on': b", {"1": "a", "on": "b"}),
        ("x: &a {b: 1, c: 2}\ny: {<<: *a, c: 3}", {"x": {"b": 1, "c": 2}, "y": {"b": 1, "c": 3}}),
        ("y:\n  <<: [{a: 1}, {a: 2, b: 3}]\n  c: 4", {"y": {"a": 1, "b": 3, "c": 4}}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ],
)  # fmt: skip
def test_plain_yaml_is_read(text: str, value: object) -> None:
    assert parse_yaml(text, "r.yaml") == value


def test_not_a_number_is_read_as_such() -> None:
    assert math.isnan(parse_yaml(".nan", "r.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "r.yaml:2:1: not valid YAML: key 'a' stands twice"),
        ("a: {<<: {}, <<: {}}", "r.yaml:1:13: not valid YAML: key '<<' stands twice"),
        ("s: !!int x", "r.yaml:1:4: not valid YAML: the tag '!!int' is not read; leave it out"),
        ("!!map [a]", "r.yaml:1:1: not valid YAML: the tag '!!map' is not read; leave it out"),
        ("!!set {a}", "r.yaml:1:1: not valid YAML: the tag '!!set' is not read; leave it out"),
        ("a: !!python/name:os.system", "r.yaml:1:4: not valid YAML: the tag '!!python/name:os.system' is not read; "
         "leave it out"),
        ("a: ! 1", "r.yaml:1:4: not valid YAML: the tag '!' is not read; leave it out"),
        ("a\n--- b", "r.yaml:2:1: not valid YAML: a second document begins here; write one"),
        ("a: 1:30", "r.yaml:1:4: not valid YAML: '1:30' would be a number of base 60; put it in quotes if it is text"),
        ("a: 1:30.5", "r.yaml:1:4: not valid YAML: '1:30.5' would be a number of base 60; put it in quotes if it is "
         "text"),
        ("a: 010", "r.yaml:1:4: not valid YAML: '010' would be an octal number; write it without the 0 in front"),
        ("a: 0x_", "r.yaml:1:4: not valid YAML: '0x_' is not a number"),
        ("a: " + "1" * 5000, "r.yaml:1:4: not valid YAML: a number of 5000 characters; at most 50 are read"),
        ("1: a", "r.yaml:1:1: not valid YAML: the key '1' is not text; put it in quotes"),
        ("~: a", "r.yaml:1:1: not valid YAML: the key '~' is not text; put it in quotes"),
        ("? [a]\n: b", "r.yaml:1:3: not valid YAML: a key must be a word"),
        ("\ta: 1", "r.yaml:1:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: b\nc: d\0", "r.yaml:2:5: not valid YAML: the character '\\x00' is not allowed"),
        ('a: "\\uD800"', "r.yaml:1:4: not valid YAML: '\\ud800' holds half a character (a surrogate)"),
        ('a: "\\UFFFFFFFF"', "r.yaml: not valid YAML: an escaped character or a version is out of range"),
        ("a: &a [*a]", "r.yaml:1:8: not valid YAML: the alias 'a' stands inside of what it stands for"),
        ("a: *b", "r.yaml:1:4: not valid YAML: no anchor is called 'b'"),
        ("y: {<<: 3}", "r.yaml:1:5: not valid YAML: 3 cannot be merged; it is not a mapping"),
        ("[" * 50_000, "r.yaml:1:51: not valid YAML: nested deeper than 50 lists and mappings"),
        ("[a", "r.yaml:1:3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "r.yaml")
    assert str(caught.value) == message


BY_ALIAS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
BY_MERGE = "a0: &a0 {" + ", ".join(f"k{key}: 1" for key in range(100)) + "}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{','.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 10)
)  # fmt: skip


@pytest.mark.parametrize("bomb", [BY_ALIAS, BY_MERGE, "[" + "1," * (NODES + 1) + "]"])
def test_more_values_than_any_recipe_has_are_refused_before_they_are_made(bomb: str) -> None:
    start = time.process_time()
    with pytest.raises(InputError, match=f"more than {NODES} values, counted with what aliases stand for"):
        parse_yaml(bomb, "r.yaml")
    assert time.process_time() - start < 20  # made in full, the aliases would take hours


def test_a_file_of_more_than_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("#" * (LIMIT_BYTES + 1))
    with pytest.raises(InputError, match=r"r\.yaml: is larger than 1024 KiB, the most that is read"):
        read_yaml(path)

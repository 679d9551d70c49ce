"""YAML from disk, read strictly and with bounds, with the place of what is wrong in it.

Of YAML 1.1 this reads mappings with text keys, lists, text, numbers, true and false, null, anchors and merges. What
could mean something else than it looks like is refused: keys written twice, tags, several documents in one file,
numbers that begin with 0 (octal) or hold a colon (base 60). A date is text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from compress.core.settings import InputError, shown
from compress.core.user_files import read_text

LIMIT_BYTES = 1 << 20  # a recipe of 65,536 ids takes 0.5 MB
NESTING = 50  # lists and mappings inside each other; a recipe has about 6
NODES = 100_000  # values, each alias counted with all that it stands for; a recipe has about 100
DIGITS = 50  # characters of a number
MERGE = "<<"
TAG = "tag:yaml.org,2002:"


class NotAccepted(yaml.MarkedYAMLError):
    """Valid YAML that is not read, and where it stands."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; null if it is empty.

    Raises:
        InputError: the file is missing, unreadable, too large, or not YAML as this module reads it; line and column
            are named.
    """
    return parse_yaml(read_text(path, LIMIT_BYTES), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; `where` names its file.

    Raises:
        InputError: it is not YAML as this module reads it; line and column are named.
    """
    try:
        return _Reader(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InputError(f"{where}{place}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"{before.count(chr(10)) + 1}:{error.position - before.rfind(chr(10))}"
        wrong = shown(chr(error.character))
        raise InputError(f"{where}:{place}: not valid YAML: the character {wrong} is not allowed") from error
    except (ValueError, OverflowError) as error:  # the parser's own, of "\UFFFFFFFF" and of %YAML 1.1111...
        raise InputError(f"{where}: not valid YAML: an escaped character or a version is out of range") from error


class _Reader:
    """Makes values of the parser's events, so that nothing is built before it was counted."""

    def __init__(self, text: str) -> None:
        self.loader = yaml.SafeLoader(text)
        self.anchors: dict[str, tuple[Any, int] | None] = {}  # a value and its nodes; None while it is being read
        self.nodes = 0

    def document(self) -> Any:
        """The one document of the text."""
        self.next(yaml.StreamStartEvent)
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.next(yaml.DocumentStartEvent)
        value = self.value(self.loader.get_event(), 0)
        self.next(yaml.DocumentEndEvent)
        if not self.loader.check_event(yaml.StreamEndEvent):
            raise NotAccepted("a second document begins here; write one", self.loader.peek_event().start_mark)
        return value

    def next(self, kind: type[yaml.Event]) -> None:
        """Step over an event that can only be of this kind."""
        event = self.loader.get_event()
        assert isinstance(event, kind)

    def count(self, nodes: int, mark: Any) -> None:
        """Refuse a file of too many values."""
        self.nodes += nodes
        if self.nodes > NODES:
            raise NotAccepted(f"more than {NODES} values, counted with what aliases stand for", mark)

    def value(self, event: Any, depth: int) -> Any:
        """The value that begins with an event."""
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.tag is not None:
            raise NotAccepted(
                f"the tag {shown(event.tag.replace(TAG, '!!'))} is not read; leave it out", event.start_mark
            )
        before = self.nodes
        self.count(1, event.start_mark)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        elif depth >= NESTING:
            raise NotAccepted(f"nested deeper than {NESTING} lists and mappings", event.start_mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self.value(item, depth + 1) for item in self.until(yaml.SequenceEndEvent)]
        else:
            value = self.mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.nodes - before
        return value

    def alias(self, event: Any) -> Any:
        """What an anchor before this place stands for."""
        if event.anchor not in self.anchors:
            raise NotAccepted(f"no anchor is called {shown(event.anchor)}", event.start_mark)
        anchored = self.anchors[event.anchor]
        if anchored is None:
            raise NotAccepted(f"the alias {shown(event.anchor)} stands inside of what it stands for", event.start_mark)
        value, nodes = anchored
        self.count(nodes, event.start_mark)
        return value

    def until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        """The events that begin values, up to the end of their list or mapping."""
        while not self.loader.check_event(end):
            yield self.loader.get_event()
        self.loader.get_event()

    def mapping(self, depth: int) -> dict[str, Any]:
        """A mapping; its own keys stand before those that are merged."""
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen = set()
        for event in self.until(yaml.MappingEndEvent):
            key = self.key(event)
            if key in seen:
                raise NotAccepted(f"key {shown(key)} stands twice", event.start_mark)
            seen.add(key)
            value = self.value(self.loader.get_event(), depth + 1)
            if key != MERGE:
                own[key] = value
                continue
            for each in value if isinstance(value, list) else [value]:
                if not isinstance(each, dict):
                    raise NotAccepted(f"{shown(each)} cannot be merged; it is not a mapping", event.start_mark)
                merged = {**each, **merged}
        return {**merged, **own}

    def key(self, event: yaml.Event) -> str:
        """A key, which is text."""
        if not isinstance(event, yaml.ScalarEvent):
            raise NotAccepted("a key must be a word", event.start_mark)
        if event.value == MERGE and event.implicit[0] and event.anchor is None:
            self.count(1, event.start_mark)
            return MERGE
        key = self.value(event, 0)
        if not isinstance(key, str):
            raise NotAccepted(f"the key {shown(event.value)} is not text; put it in quotes", event.start_mark)
        return key

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        """Text, a number, true, false or null; a date is text."""
        text: str = event.value
        kind = self.loader.resolve(yaml.ScalarNode, text, event.implicit).removeprefix(TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind in ("int", "float"):
            return number(text, kind, event.start_mark)
        if any("\ud800" <= each <= "\udfff" for each in text):
            raise NotAccepted(f"{shown(text)} holds half a character (a surrogate)", event.start_mark)
        return text


def number(text: str, kind: str, mark: Any) -> int | float:
    """A plain scalar that YAML 1.1 takes for a number.

    Raises:
        NotAccepted: it is too long, or means another number than most would read.
    """
    if len(text) > DIGITS:
        raise NotAccepted(f"a number of {len(text)} characters; at most {DIGITS} are read", mark)
    if ":" in text:
        raise NotAccepted(f"{shown(text)} would be a number of base 60; put it in quotes if it is text", mark)
    digits = text.replace("_", "").lower()
    if kind == "float":
        return {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}.get(digits) or float(digits)
    whole = digits.lstrip("+-")
    if whole.startswith("0") and whole.isdecimal() and whole != "0":
        raise NotAccepted(f"{shown(text)} would be an octal number; write it without the 0 in front", mark)
    try:
        return int(digits, 0)
    except ValueError:  # YAML 1.1 takes 0x_ for one
        raise NotAccepted(f"{shown(text)} is not a number", mark) from None

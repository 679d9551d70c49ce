import pytest

from export.runtime.errors import EngineError, first_line, shown


def test_a_value_is_shown_as_python_writes_it_and_never_long() -> None:
    assert shown("one\ntwo") == r"'one\ntwo'"
    assert shown("a" * 1000) == "'" + "a" * 199 + "..."
    assert shown(10**5000) == "a number of thousands of digits"


@pytest.mark.parametrize(
    ("text", "line"),
    [("\nfirst\nsecond", "first"), ("", "EngineError"), ("a" * 1000, "a" * 200 + "..."), ("\x1b[2J", r"'\x1b[2J'")],
)
def test_of_an_error_the_first_line_is_shown(text: str, line: str) -> None:
    assert first_line(EngineError(text)) == line

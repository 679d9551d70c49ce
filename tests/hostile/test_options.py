"""Options with values that none can have, and paths that lead nowhere: one line that names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HUGE = "99999999999999999999"


def drawn(corpus: Path, *options: object) -> tuple[object, ...]:
    """The command line that draws one picture."""
    return ("generate", corpus / "engine", "--labels", 1, "-o", "o.png", "--threads", 1, *options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            ("--labels", value)
            for value in (HUGE, f"1,{HUGE}", "-1", "11", "x", "1,", ",", "", "1.0", "9" * 5000, "nan", "٣x")
        ),
        *(("--temperature", value) for value in ("nan", "inf", "-inf", "-1", "1e309", "x")),
        *(("--cfg-scale", value) for value in ("nan", "inf", "-inf", "-1", "1e309", "1e308", "x")),
        *(("--top-p", value) for value in ("nan", "inf", "-1", "1.1")),
        *(("--top-k", value) for value in ("nan", "-1", "1.5", HUGE)),
        *(("--seed", value) for value in ("18446744073709551616", HUGE, "-1", "nan", "1.5", "9" * 5000)),
        *(("--steps", value) for value in ("0", "-1", HUGE, "4")),
        *(("--threads", value) for value in ("0", "-1", HUGE, "2147483648", "1000000")),
        *(("--batch", value) for value in ("0", "-1", "nan")),
        ("--count", "3"),
        ("--features", "nothing.npy"),
    ],
)
def test_a_value_that_none_can_have_is_refused_and_named(
    option: str, value: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    refused(*drawn(corpus, f"{option}={value}"), named=(option.removeprefix("--").replace("-", "_")[:3],))
    assert not (here / "o.png").exists()


@pytest.mark.parametrize("temperature", ["1e-300", "1e-320", "1e-46", "1e-39"])
def test_a_temperature_that_float32_does_not_have_is_greedy(
    temperature: str, corpus: Path, here: Path, works: Callable[..., str]
) -> None:
    works(*drawn(corpus, "--temperature", "0"))
    greedy = Image.open("o.png").tobytes()
    works(*drawn(corpus, "--temperature", temperature))
    assert Image.open("o.png").tobytes() == greedy


def test_a_share_of_probability_that_float32_does_not_have_keeps_the_likeliest(
    corpus: Path, here: Path, works: Callable[..., str]
) -> None:
    works(*drawn(corpus, "--top-k", "1"))
    likeliest = Image.open("o.png").tobytes()
    works(*drawn(corpus, "--top-p", "1e-46"))
    assert Image.open("o.png").tobytes() == likeliest


def test_two_seeds_are_two_pictures(corpus: Path, here: Path, works: Callable[..., str]) -> None:
    pictures = []
    for seed in ("0", "1", "4294967296", "9223372036854775808", "18446744073709551615"):
        works(*drawn(corpus, "--seed", seed))
        pictures.append(Image.open("o.png").tobytes())
    assert len(set(pictures)) == len(pictures)


@pytest.mark.usefixtures("exported_pictures")
@pytest.mark.parametrize(
    ("reader", "option"),
    [
        *(("model", option) for option in (f"--labels={HUGE}", "--temperature=nan", "--seed=18446744073709551616")),
        *(("model", option) for option in ("--cfg-scale=inf", "--steps=4")),
        ("foreign.yaml", "--temperature=nan"),
        ("foreign.yaml", "--steps=4"),
    ],
)
def test_models_in_pytorch_and_foreign_graphs_refuse_the_same(
    reader: str, option: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    refused("generate", corpus / reader, "--labels=1", "-o", here / "o.png", option)


@pytest.mark.parametrize("value", [HUGE, f"1,{HUGE}", "0", "-1", "x", "", "1,,2", "9" * 5000, "1000000000000"])
def test_a_batch_that_no_machine_can_draw_is_refused(
    value: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    refused("bench", corpus / "engine", f"--batch={value}", "--repeats", 6, named=("batch",))


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "~nosuch", "--labels", "1", "-o", "o.png"),
        ("models", "inspect", "~nosuch"),
        ("models", "check", "~nosuch/x"),
        ("verify", "~nosuch", "digits"),
        ("verify", "digits", "digits", "--tokens", "~nosuch"),
        ("bench", "~nosuch"),
        ("profile", "~nosuch"),
        ("bisect", "~nosuch", "digits"),
        ("plan", "~nosuch"),
        ("run", "~nosuch"),
        ("train", "~nosuch", "-o", "x"),
        ("report", "~nosuch"),
        ("tokens", "~nosuch", "-o", "t.npz"),
        ("to-optimum", "~nosuch", "-o", "x"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "path", ["~nosuch", "x" * 300, "a\x00b".replace("\x00", "\n"), "nothing/" * 700, "/dev/null", "é\udcff"]
)
def test_a_path_that_leads_nowhere_is_refused(
    path: str, arguments: tuple[str, ...], here: Path, refused: Callable[..., str]
) -> None:
    refused(*(part.replace("~nosuch", path) for part in arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "/dev/zero"),
        ("train", "/dev/zero", "-o", "x"),
        ("report", "/dev"),
        ("generate", "/dev/zero", "--labels", "1", "-o", "o.png"),
        ("models", "inspect", "/dev/zero"),
    ],
    ids=" ".join,
)
def test_a_device_is_no_input(arguments: tuple[str, ...], here: Path, refused: Callable[..., str]) -> None:
    refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("--nothing",),
        ("generate",),
        ("generate", "a", "b"),
        ("plan", "--stroe", "x"),
        ("passes", "nothing"),
        ("store", "gc", "--max-size", "nan"),
        ("store", "gc", "--max-size", "9" * 5000 + "GB"),
        ("store", "gc", "--max-size", "-1"),
        ("store", "gc", "--max-size", "1..5"),
        ("store", "gc", "--max-size", "²GB"),
    ],
    ids=lambda each: " ".join(each)[:40],
)
def test_usage_that_is_wrong_is_exit_code_2(
    arguments: tuple[str, ...], here: Path, refused: Callable[..., str]
) -> None:
    refused(*arguments)


def test_features_that_are_no_numbers_are_refused(corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    np.save("f.npy", np.array(["x"]))
    refused(*drawn(corpus, "--features", "f.npy"), named=("--features",))


def test_an_output_that_cannot_be_written_is_named(corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    (here / "folder.png").mkdir()
    for path in ("nothing/o.png", "folder.png", "/dev/full"):
        refused("generate", corpus / "engine", "--labels", 1, "-o", path, named=(path,))

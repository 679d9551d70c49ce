"""Command lines: options with values of every odd kind, options that are none, and paths that are nothing."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

from fuzz.case import Case

NUMBERS = ("nan", "inf", "-inf", "-1", "-0", "0", "1", "3", "1e-320", "1e-300", "1e-46", "0.5", "1e308",
           "1e999", "99999999999999999999",
           "18446744073709551616", "9223372036854775808", "2147483648", "x", "", " 1", "1,2", "0x10", "1_0",
           "٣", "½", "9" * 5000)  # fmt: skip
PATHS = ("", ".", "/", "/dev/zero", "/dev/stdin", "/dev/full", "nothing", "~nosuch", "~nosuch/x", "a\nb", "-",
         "x" * 300, "é\udcff",
         "nothing/" * 600, "../in", "digits/", "file://x", "http://x/y")  # fmt: skip
# The options of a verb: n for a number, p for a path; and the range of right numbers.
VERBS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "generate": (
        ("{engine}", "--labels=1", "-o", "drawn.png", "--threads=1"),
        {"--labels": "n", "--seed": "n", "--cfg-scale": "n", "--temperature": "n", "--top-k": "n",
        "--top-p": "n", "--steps": "n",
         "--count": "n", "--batch": "n", "--threads": "n", "--keep": "n", "--image": "p", "--mask": "p",
         "--features": "p"},
    ),
    "bench": (("{engine}", "--batch=1", "--repeats=6", "--threads=1"), {"--batch": "n", "--threads": "n"}),
    "profile": (("{engine}", "--threads=1"), {"--batch": "n", "--threads": "n"}),
    "verify": (
        ("{model}", "{engine}", "--tokens={tokens}", "--held-out=4", "--threads=1"),
        {"--held-out": "n", "--threads": "n", "--tokens": "p", "--gates": "p", "--than": "p"},
    ),
    "bisect": (
        ("{model}", "{engine}", "--tokens={tokens}", "--pictures=2", "--threads=1"),
        {"--pictures": "n", "--threads": "n", "--tokens": "p", "--plot": "p"},
    ),
    "plan": (("{recipe}",), {"--store": "p"}),
    "report": (("{run}",), {}),
    "tokens": (
        ("nothing", "-o", "t.npz", "--model={model}"),
        {"--validation": "n", "--held-out": "n", "--seed": "n", "--model": "p"},
    ),
    "models inspect": (("{model}",), {"--family": "p", "--tokenizer": "p", "--set": "p"}),
    "models check": (("nothing",), {"--golden": "p", "--family": "p"}),
    "store list": ((), {"--store": "p"}),
    "store gc": (("--max-size=1GB", "--store=nothing"), {"--max-size": "n"}),
    "passes": (("quantize",), {}),
}  # fmt: skip


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A command line with one to three odd parts."""
    verb = random.choice(sorted(VERBS))
    base, options = VERBS[verb]
    places = {"engine": "engine", "model": "model", "tokens": "tokens.npz", "recipe": "tiny.yaml", "run": "run"}
    given = [part.format(**{name: corpus / place for name, place in places.items()}) for part in base]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        how = random.choice(("option", "option", "option", "option", "path", "unknown", "drop"))
        if how == "option" and options:
            name = random.choice(sorted(options))
            value = random.choice(NUMBERS if options[name] == "n" else PATHS)
            given = [part for part in given if not part.startswith(f"{name}=")] + [f"{name}={value}"]
        elif how == "path" and given:
            given[random.randrange(len(given))] = random.choice(PATHS)
        elif how == "unknown":
            given.append(random.choice(("--nothing", "--lables=1", "-x", "--", "--json=1", "--=")))
        elif given:
            given.pop(random.randrange(len(given)))
    parts = [part.split("=", 1) for part in given if part.startswith("--") and "=" in part]
    wrong = next((why for name, value in parts if (why := reason(verb, name, value))), "")
    return Case((*verb.split(), *given), "", wrong, breach=True)


def reason(verb: str, name: str, value: str) -> str:
    """Why a value must be refused, if it must."""
    if name in ("--labels", "--max-size") or VERBS[verb][1].get(name) != "n" or (verb, name) == ("bench", "--batch"):
        return ""
    try:
        number = float(value)
    except ValueError:
        return f"{verb} {name} took {value[:20]!r}"
    bad = not math.isfinite(number) or number < 0 or (name == "--seed" and number >= 2**64)
    bad = bad or (name in ("--top-p", "--keep") and number > 1)
    bad = bad or (name == "--steps" and verb == "generate")  # of a causal engine
    return f"{verb} {name} took {value[:20]!r}" if bad else ""

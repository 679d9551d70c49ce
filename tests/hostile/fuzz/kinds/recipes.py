"""Recipes of `plan` and `train`, changed as trees of values and as text."""

from __future__ import annotations

import datetime
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzz import blobs, trees
from fuzz.case import Case

LONG = 20_000  # bytes
PIECES = (
    "!!int ", "!!float x", "!!bool x", "!!map ", "!!set ", "!!omap ", "!!pairs ", "!!binary x",
    "!!timestamp x", "!!null x",
    "!!python/object/apply:os.system [x]", "!x ", "&a ", "*a", "*nothing", "<<: ", "<<: [*a, *a]", "? ", "- ",
    ": ", "#",
    "[", "{", "]", "}", "[" * 600, "{a: " * 600, "- " * 600, "? " * 600, "\t", "\x00", "\x07", "\ufeff",
    "\u2028", "%YAML 9.9\n",
    "---\n", "...\n", "|\n", ">9\n", "'", '"', '"\\ud800"', '"\\x', "2001-99-99", "2001-01-01", "12:30:45",
    "0x", "0o9", "0b2", "1_0",
    "1e999", ".nan", "-.inf", "~", "=", "9" * 5000, "0x" + "f" * 5000, "a" * 100_000, "@", "`",
)  # fmt: skip


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A recipe with one to three changes."""
    verb = random.choice(("plan", "plan", "plan", "train"))
    tree = training() if verb == "train" else rich(corpus)
    path = room / "recipe.yaml"
    wrong, said = "", ""
    arguments = (verb, str(path)) if verb == "plan" else (verb, str(path), "-o", "trained")
    if random.random() < 0.5:
        tree, done = trees.change(tree, random)
        if done.how == "replace" and random.random() < 0.1:
            done = dated(tree, done)
        said = str(done)
        wrong = reason(done)
        path.write_text(dumped(tree), encoding="utf-8", errors="surrogatepass")
    else:
        text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=random.choice((True, False, None)))
        for _ in range(random.choice((1, 1, 3))):
            text, what = textual(text, random)
            said += f"{what}; "
        data = text.encode("utf-8", errors="surrogatepass")
        if random.random() < 0.2:
            data, what = blobs.change(data, random)
            said += what
        path.write_bytes(data)
        wrong = "" if is_yaml(data) else "a recipe that is not YAML was taken"
    trained = {"compress.training.transformer.train": lambda *given: {"held_out_nll": 0.0}}
    return Case(arguments, said, wrong, named="recipe.yaml", instead=trained if verb == "train" else {})


def rich(corpus: Path) -> dict[str, Any]:
    """A recipe that says most of what can be said."""
    return {
        "model": {"family": "reference", "checkpoint": str(corpus / "model")},
        "tokens": {"source": str(corpus / "tokens.npz"), "calibration": 8, "held_out": 8},
        "bench": {"batch": [1, 2], "threads": 1, "repeats": 6, "samples": 10},
        "seed": 0,
        "passes": [
            {"prune-heads": {"ratio": 0.25, "score": "magnitude"}, "gate": {"kl": 50.0, "nll_drift": "100%"}},
            {"prune-ffn": {"ratio": 0.25, "score": "magnitude"}},
            {"distill": {"steps": 4, "batch": 4, "learning_rate": 0.001, "temperature": 2.0, "validate_every": 2}},
            {"quantize": {"weights": "int8", "activations": "int8", "dynamic": True}},
        ],
        "engines": {"cpu": [{"export": {"target": "onnxruntime"}}, {"fuse": {}}], "plain": ["export"]},
        "gate": {"kl": 50.0, "speedup_batch": 1, "decide": "estimate"},
    }


def training() -> dict[str, Any]:
    """A recipe of `train`."""
    return {
        "name": "digits", "tokens": "digits", "seed": 0,
        "model": {"grid": [8, 8], "vocabulary": 17, "classes": 10, "width": 32, "layers": 1, "heads": 4,
        "head_width": 8,
                  "ffn": 64, "rotary_base": 100},
        "sampler": {"cfg_scale": 1.5},
        "augment": {"shift": 0.8, "turn": 8, "scale": 0.08, "untouched": 0.25, "until": 0.85},
        "train": {"steps": 2, "batch": 4, "learning_rate": 0.001, "warmup": 1, "validate_every": 1, "threads": 1},
    }  # fmt: skip


def reason(done: trees.Change) -> str:
    """Why a changed recipe must be refused, if it must."""
    named = done.path[0] == "engines" and len(done.path) == 2  # the name of an engine is free
    if done.new_key and not named:
        return "a recipe with an unknown key was taken"
    free = done.path[-1] in ("name", "passes") or (named and done.how == "replace")
    short = isinstance(done.old, dict) and isinstance(done.new, str)  # a pass may stand as its name alone
    if done.wrong_kind and not free and not short:
        return f"a recipe whose {done.path[-1]} is of another kind was taken"
    return ""


def dated(tree: Any, done: trees.Change) -> trees.Change:
    """The replaced value as a date, which YAML alone can hold."""
    holder = tree
    for key in done.path[:-1]:
        holder = holder[key]
    holder[done.path[-1]] = datetime.date(2001, 1, 1)
    return trees.Change(done.path, "date", done.old, None)


def dumped(tree: Any) -> str:
    """The tree as YAML, without references."""
    dumper = yaml.SafeDumper
    dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]
    return yaml.dump(tree, Dumper=dumper, sort_keys=False, allow_unicode=True)


def textual(text: str, random: Random) -> tuple[str, str]:
    """A change of the text of a recipe."""
    how = random.choice(("insert", "insert", "insert", "line", "double", "indent", "bomb"))
    if how == "insert":
        at, piece = random.randrange(len(text) + 1), random.choice(PIECES)
        if random.random() < 0.6 and ": " in text:  # as a value
            at = random.choice([i + 2 for i in range(len(text) - 1) if text[i : i + 2] == ": "])
        return text[:at] + piece + text[at:], f"inserted {piece[:20]!r} at {at}"
    lines = text.splitlines(keepends=True)
    at = random.randrange(len(lines))
    if how == "line":
        del lines[at]
    elif how == "double":
        lines.insert(at, lines[at])
    elif how == "indent":
        lines[at] = " " * random.choice((1, 2, 5)) + lines[at]
    else:
        merged = random.random() < 0.5
        levels = [
            f"k{i}: &k{i} " + ("{<<: [%s]}" if merged else "[%s]") % ",".join([f"*k{i - 1}"] * 10) for i in range(1, 9)
        ]
        lines = ["k0: &k0 {a: x}\n" if merged else "k0: &k0 [x]\n", *(f"{level}\n" for level in levels), *lines]
    return "".join(lines), f"{how} line {at}"


def is_yaml(data: bytes) -> bool:
    """Whether PyYAML alone can parse it; it is not asked of what it would take minutes for."""
    if len(data) > LONG:
        return True
    try:
        for _ in yaml.parse(data.decode("utf-8"), Loader=yaml.SafeLoader):
            pass
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    except Exception:
        return True
    return True

"""A draft as the text of a recipe, with comments that say what was chosen; the parser of recipes checks it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from compress.core.strict_yaml import parse_yaml
from compress.drafting.cost import Cost
from compress.drafting.facts import Facts
from compress.drafting.goals import Draft, Item
from compress.drafting.tokens import Pictures
from compress.recipe.recipe import of_value

HEADER = "# yaml-language-server: $schema="
SCHEMA = "recipe.schema.json"
WIDTH = 116  # of comments


def recipe_text(facts: Facts, draft: Draft, pictures: Pictures, cost: Cost, file: Path) -> str:
    """The recipe, checked as `compress run` checks it.

    Raises:
        InputError: what was written is refused, which is a mistake here or of a pass of a third party.
    """
    model = {"checkpoint": facts.source.checkpoint}
    model |= {key: value for key, value in vars(facts.source).items() if key != "checkpoint" and value}
    tokens = {"source": pictures.source, "calibration": pictures.calibration, "held_out": pictures.held_out}
    remark = f"  # {pictures.remark}" if pictures.remark else ""
    lines = [
        HEADER + SCHEMA,
        *comment(f"{draft.goal}: {draft.doc}"),
        f"#   compress run {file}",
        *comment(f"The model: {facts.words()}."),
        *comment("What it would cost, foreseen before anything ran:"),
        *(f"#   {line}" for line in cost.lines()),
        f"model:  {flow(model)}",
        *comment(pictures.note),
        f"tokens: {flow(tokens)}{remark}",
        f"bench:  {flow(draft.bench)}",
        "seed: 0",
        *(["passes:", *chain(draft.trunk, "  ")] if any(not each.why for each in draft.trunk) else
          ["passes: []", *chain(draft.trunk, "  ")]),
        "engines:",
    ]  # fmt: skip
    for name, items in draft.engines.items():
        lines += [f"  {name}:", *chain(items, "    ")]
    if any(each.name == "prune-to" for each in draft.kept):
        lines += comment("What pruning loses depends on the model: where the gate is breached, keep more parameters.")
    lines += [f"# without {key}: {why}" for key, why in draft.ungated.items()]
    if draft.gate:
        lines.append(f"gate: {flow(draft.gate)}")
    text = "\n".join(lines) + "\n"
    of_value(parse_yaml(text, str(file)), file)
    return text


def chain(items: Iterable[Item], margin: str) -> list[str]:
    """The passes of a chain, and comments where one was left out or changed."""
    lines = []
    for item in items:
        if item.why:
            lines += comment(f"without {item.name}: {item.why}", margin)
            continue
        if item.remark:
            lines += comment(item.remark, margin)
        lines.append(f"{margin}- {item.name}: {flow(item.settings)}")
    return lines


def comment(text: str, margin: str = "") -> list[str]:
    """A comment, on as many lines as it takes."""
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - len(margin), break_on_hyphens=False, break_long_words=False)
    return [f"{margin}# {line}" for line in lines]


def flow(value: Mapping[str, Any]) -> str:
    """A mapping on one line of YAML."""
    return yaml.safe_dump(
        dict(value), default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True
    ).strip()

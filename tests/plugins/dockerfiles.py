"""A Dockerfile as its stages, as far as this project writes any."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath


@dataclass
class Stage:
    """A stage: what it is built on, and its instructions with their arguments, in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of each instruction of this name."""
        return [arguments for name, arguments in self.steps if name == instruction]


def read(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by name; the last one is what is built unless told otherwise."""
    stages: dict[str, Stage] = {}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    current: Stage | None = None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            stages[name] = current = Stage(name, base)
        elif instruction and current is not None:
            current.steps.append((instruction, arguments.strip()))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and all below it, the lowest first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def environment(stages: list[Stage]) -> dict[str, str]:
    """The variables that their ENV set, as written."""
    pairs = [pair.partition("=") for stage in stages for line in stage.all("ENV") for pair in shlex.split(line)]
    return {name: value for name, _, value in pairs}


def words(arguments: str) -> list[str]:
    """The words of a command in JSON, as of ENTRYPOINT and of HEALTHCHECK ... CMD."""
    return [str(word) for word in json.loads(re.search(r"\[.*\]", arguments)[0])]  # type: ignore[index]


def in_context(name: str, rules: str) -> bool:
    """Whether a file is in the context of a build, by the lines of .dockerignore; the last one that matches decides."""
    kept, path = True, PurePosixPath(name)
    for rule in rules.splitlines():
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!").removeprefix("**/")
            parts = path.parts if "**/" in rule else path.parts[:1]
            if any(fnmatch(part, pattern) for part in parts):
                kept = rule.startswith("!")
    return kept

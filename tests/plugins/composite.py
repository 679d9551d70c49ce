"""A composite action of GitHub as a runner executes it: its `run` steps for real, its `uses` steps as records."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
COMPARED = re.compile(r"([\w.-]+)\s*(==|!=)\s*'([^']*)'")


@dataclass
class Ran:
    """What an action left behind."""

    code: int = 0  # of the first step that failed
    said: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)  # the inputs of each `uses` step, by its name
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """A job's folders: where the caller's repository and the action's lie, and one for files of the runner."""

    workspace: Path
    action_path: Path
    temporary: Path

    def run(self, action: dict[str, Any], given: dict[str, str], environment: dict[str, str]) -> Ran:
        """Execute every step in order; after one that failed only those that always run."""
        ran, known = Ran(), {f"inputs.{key}": value.get("default", "") for key, value in action["inputs"].items()}
        known |= {"runner.os": "Linux", "runner.arch": "X64"} | {f"inputs.{key}": text for key, text in given.items()}
        for step in action["runs"]["steps"]:
            condition = step.get("if", "")
            if (ran.code and "always()" not in condition) or not holds(condition, known):
                ran.skipped.append(step["name"])
            elif "uses" in step:
                ran.used[step["name"]] = {key: filled(text, known) for key, text in step["with"].items()}
            else:
                code = self.execute(step, known, environment, ran)
                ran.code = ran.code or code
        ran.outputs = {name: filled(said["value"], known) for name, said in action["outputs"].items()}
        return ran

    def execute(self, step: dict[str, Any], known: dict[str, str], environment: dict[str, str], ran: Ran) -> int:
        """Execute a script as `shell: bash` does; its outputs become known."""
        files = {name: self.temporary / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        script = self.temporary / "script.sh"
        script.write_text(step["run"])
        own = {key: filled(text, known) for key, text in step.get("env", {}).items()}
        github = {key: str(file) for key, file in files.items()}
        github |= {"GITHUB_ACTIONS": "true", "CI": "true", "RUNNER_TEMP": str(self.temporary)}
        github |= {"GITHUB_WORKSPACE": str(self.workspace), "GITHUB_ACTION_PATH": str(self.action_path)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.workspace / filled(step.get("working-directory", "."), known),
            env={**os.environ, "PATH": path, **environment, **github, **own},
            capture_output=True,
            text=True,
        )
        ran.said += done.stdout + done.stderr
        ran.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        for line in files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step.get('id', '')}.outputs.{name}"] = value
        return done.returncode


def filled(text: str, known: dict[str, str]) -> str:
    """A text with its expressions replaced; what is not known is empty, as GitHub has it."""
    return EXPRESSION.sub(lambda found: known.get(found[1], ""), str(text))


def holds(condition: str, known: dict[str, str]) -> bool:
    """Whether a condition holds, of those that compare with texts and are joined by `&&`."""
    parts = [part.strip() for part in condition.split("&&") if part.strip() not in ("", "always()")]
    for part in parts:
        found = COMPARED.fullmatch(part)
        assert found, f"{part!r} is more than this runner reads"
        if (known.get(found[1], "") == found[3]) != (found[2] == "=="):
            return False
    return True

"""The command `doctor`: what this machine can run."""

from __future__ import annotations

import click

from compress.cli.group import example, json_option
from compress.cli.terminal import print_json, print_rows


@click.command()
@example("compress doctor")
@json_option
def doctor(as_json: bool) -> None:
    """What this machine can run: CPU features, ONNX Runtime providers, TensorRT, CUDA."""
    from compress.cli.machine import examine
    from compress.core.settings import plain

    health = examine()
    if as_json:
        print_json(health)
        return
    machine = plain(health.machine)
    machine["flags"] = ", ".join(machine["flags"]) or "none that matter"
    machine["libraries"] = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    print_rows("this machine", ["", ""], [[key, str(value)] for key, value in machine.items()])
    print_rows("what can run", ["", "", ""], [[c.name, "yes" if c.works else "no", c.detail] for c in health.checks])

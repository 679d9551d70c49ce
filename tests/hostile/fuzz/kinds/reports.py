"""report.json of `report`."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fuzz import blobs, trees
from fuzz.case import Case

FREE = ("recipe", "environment", "pictures", "notes", "sha256")  # hold any keys: of a later version, a pass, files
NAMED = "measures"  # holds any names, but under each what its measure finds


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A finished run whose report has a change."""
    path = room / "run" / "report.json"
    path.parent.mkdir()
    wrong = ""
    if random.random() < 0.7:
        tree, done = trees.change(json.loads((corpus / "run" / "report.json").read_text()), random)
        path.write_text(json.dumps(tree))
        said = str(done)
        if done.new_key and not free(done.path):
            wrong = "a report with an unknown key was taken"
    else:
        data, said = blobs.change((corpus / "run" / "report.json").read_bytes(), random)
        path.write_bytes(data)
    arguments = random.choice(
        (
            ("report", str(path.parent)),
            ("report", str(path.parent), "--json"),
            ("report", str(path.parent), str(corpus / "run"), "--compare", "-o", "page.html"),
        )
    )
    return Case(arguments, said, wrong, named="report.json")


def free(path: tuple[str | int, ...]) -> bool:
    """Whether the mapping that holds this place may have any key."""
    return any(each in FREE for each in path[:-1]) or path[-2:-1] == (NAMED,)

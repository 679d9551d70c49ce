"""Stores of `store list` and `store gc`: entries, users, measurements, links."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

from fuzz import blobs, trees
from fuzz.case import Case


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A store in which one file is another one, or damaged."""
    store = Path("store")  # in the output folder, because gc writes into it
    shutil.copytree(corpus / "store", store)
    how = random.choice(("tree", "tree", "bytes", "link", "odd"))
    files = sorted(path for path in store.rglob("*.json"))
    path = random.choice([each for each in files if each.parent.name != "measurements"])
    if how == "tree":
        tree, done = trees.change(json.loads(path.read_text()), random)
        path.write_text(json.dumps(random.choice((tree, tree, tree, [], None, 5, "x"))))
        said = f"{path.name}: {done}"
    elif how == "bytes":
        data, said = blobs.change(path.read_bytes(), random)
        path.write_bytes(data)
    elif how == "link":
        (room / "elsewhere").mkdir()
        (room / "elsewhere" / "file").write_text("stays")
        place = random.choice(("drafts/abc-1", "artifacts/abc", "work/abc", "users/abc.json", "locks/abc"))
        (store / place).symlink_to(random.choice((room / "elsewhere", room / "nothing")))
        said = f"a link at {place}"
    else:
        said = random.choice(("a file among artifacts", "a folder among users", "a FIFO among users", "no drafts"))
        if said == "a file among artifacts":
            (store / "artifacts" / "x").write_text("x")
        elif said == "a folder among users":
            (store / "users" / "x.json").mkdir()
        elif said == "a FIFO among users":
            os.mkfifo(store / "users" / "x.json")
        else:
            shutil.rmtree(store / "drafts")
    arguments = random.choice((("list",), ("list", "--json"), ("gc", "--max-size", "0"), ("gc", "--max-size", "1GB")))
    right = "a store with one damaged entry cannot be listed or tidied"
    return Case(("store", *arguments, "--store", "store"), said, right=right)

"""Engine folders of `generate`: the manifest and the files that it vouches for."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from random import Random

from fuzz import blobs, trees
from fuzz.case import Case

FREE = ("name", "family", "parameters", "provenance", "measured")  # say nothing about how the graphs are run
DRAWS = ("sampler",)  # may rightly change the picture
CARD = "README.md"  # for people; nothing reads it


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """An engine with a change in its manifest, or in a file that the manifest has the hash of."""
    folder = room / "engine"
    shutil.copytree(corpus / "engine", folder)
    manifest = folder / "manifest.json"
    wrong, after = "", None
    how = random.choice(("tree", "tree", "tree", "text", "file", "rehashed", "link"))
    if how == "tree":
        tree, done = trees.change(json.loads(manifest.read_text()), random)
        manifest.write_text(json.dumps(tree))
        said = str(done)
        top = done.path[0]
        if done.new_key and not (top in FREE[3:] and len(done.path) > 1):
            wrong = "a manifest with an unknown key was taken"
        elif done.wrong_kind and top not in FREE[2:]:
            wrong = f"a manifest whose {top} is of another kind was taken"
        elif top in ("files", "sha256"):
            wrong = "a manifest that does not vouch for the folder's files was taken"
        elif top not in (*FREE, *DRAWS):
            after = same_picture(corpus)
    elif how == "text":
        data, said = blobs.change(manifest.read_bytes(), random)
        manifest.write_bytes(data)
    elif how == "file":
        path = random.choice(sorted(folder.glob("*.onnx")))
        data, said = blobs.change(path.read_bytes(), random)
        path.write_bytes(data)
        wrong, said = "an engine with a changed file drew", f"{path.name}: {said}"
    elif how == "rehashed":
        path = random.choice(sorted(folder.glob("*.onnx")))
        data, said = blobs.change(path.read_bytes(), random)
        path.write_bytes(data)
        tree = json.loads(manifest.read_text())
        tree["sha256"][path.name] = hashlib.sha256(data).hexdigest()
        manifest.write_text(json.dumps(tree))
        said = f"{path.name}, hash fits: {said}"
    else:
        path = random.choice(sorted(path for path in folder.iterdir() if path.name != CARD))
        target = random.choice(("/dev/zero", "/dev/stdin", "nowhere", path.name, "/etc/passwd", ".."))
        path.unlink()
        path.symlink_to(target)
        wrong, said = "an engine with a file that is none drew", f"{path.name} -> {target}"
    arguments = ("generate", str(folder), "--labels", "1,2", "-o", "drawn.png", "--threads", "1")
    return Case(arguments, said, wrong, after=after)


def same_picture(corpus: Path) -> object:
    """A check that the picture is what the whole engine draws."""
    known = corpus / "drawn.png"

    def check(output: str) -> str:
        return (
            ""
            if pixels(Path("drawn.png")) == pixels(known)
            else "an engine with a changed manifest drew something else"
        )

    return check


def pixels(path: Path) -> tuple[tuple[int, int], bytes]:
    """Size and content of a picture."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size, picture.tobytes()

"""Checkpoints of `models inspect` and `generate`: config.json, headers of safetensors, PyTorch's zips and pickles."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from fuzz import blobs, trees
from fuzz.case import Case

GOLDEN = Path(__file__).parents[3] / "data" / "golden"
PUBLISHED = tuple(sorted(path.name for path in GOLDEN.iterdir()))
FAMILIES = (
    "amused",
    "halton-maskgit",
    "imagegpt",
    "llamagen",
    "rar",
    "taming",
    "titok-bert",
    "var",
    "reference",
    "onnx",
    "huggingface",
)


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A checkpoint of this project or a published one, with a change."""
    how = random.choice((own_config, own_header, own_bytes, published_config, published_bytes, other_family, stated))
    return how(random, corpus, room / "model")


def drawn_or_inspected(folder: Path, random: Random) -> tuple[str, ...]:
    """A command line that reads the checkpoint's names, or all of it."""
    if random.random() < 0.5:
        return ("models", "inspect", str(folder))
    return ("generate", str(folder), "--labels", "1", "-o", "drawn.png", "--threads", "1")


def own_config(random: Random, corpus: Path, folder: Path) -> Case:
    """config.json of this project."""
    shutil.copytree(corpus / "model", folder)
    tree, done = trees.change(json.loads((folder / "config.json").read_text()), random)
    (folder / "config.json").write_text(json.dumps(tree))
    arguments = drawn_or_inspected(folder, random)
    read = ("transformer",) if arguments[0] == "models" else ("transformer", "tokenizer", "sampler")
    structural = done.path[0] in read and len(done.path) > 1
    wrong = "a config with an unknown key was taken" if done.new_key and structural else ""
    if done.wrong_kind and structural:
        wrong = f"a config whose {done.path[-1]} is of another kind was taken"
    return Case(arguments, str(done), wrong)


def own_header(random: Random, corpus: Path, folder: Path) -> Case:
    """The header of a safetensors file."""
    shutil.copytree(corpus / "model", folder)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tree, done = trees.change(json.loads(data[8 : 8 + size]), random)
    header = json.dumps(tree).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    renamed = done.how in ("rename", "delete") and len(done.path) == 1 and done.path[0] != "__metadata__"
    arguments = ("generate", str(folder), "--labels", "1", "-o", "drawn.png", "--threads", "1")
    return Case(arguments, str(done), "a checkpoint without one of its tensors was taken" if renamed else "")


def own_bytes(random: Random, corpus: Path, folder: Path) -> Case:
    """Bytes of the weights; the format has no checksum, so other numbers are no fault."""
    shutil.copytree(corpus / "model", folder)
    path = folder / "model.safetensors"
    data, said = blobs.change(path.read_bytes(), random)
    path.write_bytes(data)
    arguments = drawn_or_inspected(folder, random)
    cut = arguments[0] == "generate" and len(data) != (corpus / "model" / "model.safetensors").stat().st_size
    return Case(arguments, said, "a checkpoint of another length was taken" if cut else "")


def published_config(random: Random, corpus: Path, folder: Path) -> Case:
    """config.json of a published format."""
    name = random.choice(PUBLISHED)
    shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("golden.npz"))
    tree, done = trees.change(json.loads((folder / "config.json").read_text()), random)
    (folder / "config.json").write_text(json.dumps(tree))
    return Case(("models", "inspect", str(folder)), f"{name}: {done}")


def published_bytes(random: Random, corpus: Path, folder: Path) -> Case:
    """Bytes of a published file: the pickle of a zip where it is one."""
    name = random.choice(PUBLISHED)
    shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("golden.npz"))
    path = next(path for path in sorted(folder.iterdir()) if path.suffix in (".pt", ".safetensors"))
    if path.suffix == ".pt" and random.random() < 0.6:
        said = pickled(path, random)
    else:
        data, said = blobs.change(path.read_bytes(), random)
        path.write_bytes(data)
    return Case(("models", "inspect", str(folder)), f"{name}: {said}")


def pickled(path: Path, random: Random) -> str:
    """Change the pickle inside a PyTorch zip; its checksum fits."""
    changed = path.with_suffix(".new")
    said = ""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename.endswith("data.pkl"):
                data, said = blobs.change(data, random)
            new.writestr(member.filename, data)
    changed.replace(path)
    return f"pickle: {said}"


def other_family(random: Random, corpus: Path, folder: Path) -> Case:
    """A checkpoint read as a family that it is not of."""
    name, family = random.choice(PUBLISHED), random.choice(FAMILIES)
    own = next((each for each in FAMILIES if name.startswith(each)), "")
    arguments = ("models", "inspect", str(GOLDEN / name), "--family", family)
    may = own == family or family == "huggingface"  # transformers itself decides what it reads
    return Case(arguments, f"{name} as {family}", "" if may else "a checkpoint was read as a family that it is not of")


def stated(random: Random, corpus: Path, folder: Path) -> Case:
    """Keys of config.json on the command line."""
    name = random.choice(PUBLISHED)
    config: dict[str, Any] = json.loads((GOLDEN / name / "config.json").read_text())
    key = random.choice([*sorted(config), "n_head", "grid"])
    typo = random.random() < 0.3
    if typo:
        key = trees.typo(key, random)
    value = random.choice((*trees.NASTY, "[1,"))
    text = value if isinstance(value, str) else json.dumps(value)
    arguments = ("models", "inspect", str(GOLDEN / name), "--set", f"{key}={text}".replace("\x00", ""))
    return Case(arguments, "", "a key that is none of the config was taken" if typo and key not in config else "")

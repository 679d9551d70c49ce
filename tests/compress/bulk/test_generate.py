"""Picture i is the same, byte for byte, whoever draws it, and however often the work was interrupted."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs_of_workers import children
from PIL import Image

import compress
from compress.bulk import drawing, generate, shards
from compress.bulk.generate import Progress
from compress.bulk.job import Written
from compress.core.settings import InputError

LABELS = [3, 1, 4, 1, 5, 9, 2]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def members(folder: Path) -> dict[str, bytes]:
    """What lies in all shards of a folder."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for each in archive.getmembers():
                assert each.name not in found
                found[each.name] = archive.extractfile(each).read()
    return found


def draw(engine: Path, output: Path, count: int = 21, **more: Any) -> Path:
    """Draw so many pictures in batches of 4, two batches a shard."""
    compress.draw_shards(engine, output, LABELS, count=count, **{"seed": 7, "batch": 4, "shard": 8, **more})
    return output


def test_the_pictures_are_those_that_the_engine_draws_with_this_seed(tiny_engine, here, tmp_path) -> None:
    engine = tiny_engine("causal")
    drawn = compress.draw_shards(engine, tmp_path, LABELS, count=21, seed=7, batch=4, shard=8, on="local:2")
    assert (drawn.made, drawn.job.shards) == (21, 3)
    found = members(draw(engine, tmp_path))
    assert list(found) == [f"{number:09}.{kind}" for number in range(21) for kind in ("json", "png")]
    labels = (LABELS * 3)[:21]
    alone = compress.generate(engine, labels, seed=7, threads=1)
    pictures = [np.asarray(Image.open(io.BytesIO(found[f"{number:09}.png"]))) for number in range(21)]
    np.testing.assert_array_equal(pictures, alone[..., 0])
    sha256 = hashlib.sha256((engine / "manifest.json").read_bytes()).hexdigest()
    facts = [json.loads(found[f"{number:09}.json"]) for number in range(21)]
    wanted = [{"engine": sha256, "index": number, "label": labels[number], "seed": 7} for number in range(21)]
    assert facts == wanted


@pytest.mark.parametrize("kind", ["causal", "rounded together", "masked"])
def test_neither_workers_nor_shards_nor_how_many_there_are_change_a_picture(kind, tiny_engine, here, tmp_path) -> None:
    engine = tiny_engine(kind)
    whole = members(draw(engine, tmp_path / "whole"))
    assert members(draw(engine, tmp_path / "five", on="local:5")) == whole
    assert members(draw(engine, tmp_path / "large", shard=16)) == whole
    short = members(draw(engine, tmp_path / "short", count=18))
    assert short == {name: whole[name] for name in short}
    assert len(short) == 36


def test_an_engine_that_rounds_pictures_together_would_change_with_its_batches(tiny_engine, here, tmp_path) -> None:
    """So the test above would see a picture that is drawn beside others."""
    engine = tiny_engine("rounded together")
    assert members(draw(engine, tmp_path / "a")) != members(draw(engine, tmp_path / "b", batch=8))


@pytest.mark.parametrize("kind", ["causal", "rounded together", "masked"])
def test_neither_do_threads(kind, tiny_engine, here, tmp_path) -> None:
    one, three = (members(draw(tiny_engine(kind), tmp_path / f"{threads}", threads=threads)) for threads in (1, 3))
    assert one == three


@pytest.mark.parametrize("labels", [["dog", "cat", 3], Written("dog,cat,3")])
def test_names_of_classes_are_drawn_and_stand_beside_the_pictures(labels, tiny_engine, here, tmp_path) -> None:
    engine, names = tmp_path / "engine", ["bird", "cat", "dog", *(f"class {number}" for number in range(3, 10))]
    shutil.copytree(tiny_engine("causal"), engine)
    manifest = json.loads((engine / "manifest.json").read_text())
    manifest["shape"]["class_names"] = names
    (engine / "manifest.json").write_text(json.dumps(manifest))
    compress.draw_shards(engine, tmp_path / "out", labels, batch=4)
    found = members(tmp_path / "out")
    facts = [json.loads(found[f"{number:09}.json"]) for number in range(3)]
    assert [(each["label"], each["class"]) for each in facts] == [(2, "dog"), (1, "cat"), (3, "class 3")]
    compress.draw_shards(engine, tmp_path / "null", [10], batch=4)
    assert "class" not in json.loads(members(tmp_path / "null")["000000000.json"]), "the null class has no name"


def test_a_folder_of_pictures_holds_the_same_ones(tiny_engine, here, tmp_path) -> None:
    engine = tiny_engine("causal")
    whole = members(draw(engine, tmp_path / "tar"))
    found = files(draw(engine, tmp_path / "png", format="png"))
    pictures = {Path(name).name: content for name, content in found.items() if name.endswith(".png")}
    assert pictures == {name: content for name, content in whole.items() if name.endswith(".png")}
    lines = [json.loads(line) for line in found["shard-000001/metadata.jsonl"].decode().splitlines()]
    assert lines[2] == {"file_name": "000000010.png", **json.loads(whole["000000010.json"])}
    assert {Path(name).parent.name for name in found} == {"", "shard-000000", "shard-000001", "shard-000002"}


def test_models_of_texts_and_without_classes_draw_too(tiny_engine, here, tmp_path) -> None:
    texts = np.random.default_rng(1).normal(size=(3, 5, 6)).astype(np.float32)
    text = tiny_engine("text")
    compress.draw_shards(text, tmp_path / "text", features=texts, count=5, batch=4)
    alone = compress.generate(text, [0] * 5, features=texts[[0, 1, 2, 0, 1]], threads=1)
    last = Image.open(io.BytesIO(members(tmp_path / "text")["000000004.png"]))
    np.testing.assert_array_equal(np.asarray(last), alone[4, ..., 0])
    compress.draw_shards(tiny_engine("without classes"), tmp_path / "plain", count=5)
    assert len(members(tmp_path / "plain")) == 10


def test_a_finished_shard_stays_and_only_what_is_missing_is_drawn(tiny_engine, here, tmp_path) -> None:
    engine, output = tiny_engine("causal"), tmp_path / "out"
    before = files(draw(engine, output))
    stamps = {path: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    (output / "shard-000001.tar").unlink()
    (output / ".draft-shard-000001.tar-99").write_bytes(b"half")
    drawn = compress.draw_shards(engine, output, LABELS, count=21, seed=7, batch=4, shard=8)
    assert (drawn.made, [task.first for task in here[-1].tasks]) == (8, [8])
    assert files(output) == before
    assert {path.name for path in stamps if path.stat().st_mtime_ns != stamps[path]} == {"shard-000001.tar"}
    assert not list(output.glob(".draft*"))


def test_a_shard_that_fails_twice_is_named_and_the_others_are_made(tiny_engine, here, tmp_path, monkeypatch) -> None:
    usual = drawing.members

    def faulty(job, engine, shard):
        if shard.first == 8:
            raise ValueError("no picture 8\nand more")
        return usual(job, engine, shard)

    engine = tiny_engine("causal")
    monkeypatch.setattr(drawing, "members", faulty)
    with pytest.raises(InputError) as error:
        draw(engine, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: 1 of 3 shards failed twice and were set aside: shard-000001.tar (ValueError: no picture 8); all "
        f"others are finished, the same command tries these again"
    )
    assert [path.name for path in sorted(tmp_path.glob("*.tar"))] == ["shard-000000.tar", "shard-000002.tar"]
    monkeypatch.setattr(drawing, "members", usual)
    assert len(members(draw(engine, tmp_path))) == 42


@pytest.mark.parametrize("form", ["webdataset", "png"])
def test_a_full_disk_is_one_line_and_leaves_what_was_finished(form, tiny_engine, here, tmp_path, monkeypatch) -> None:
    usual, moved = shards.move, []

    def full(draft: Path, place: Path) -> None:
        if moved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(draft))
        moved.append(place)
        usual(draft, place)

    for module in (shards, sys.modules["compress.core.durable"]):
        monkeypatch.setattr(module, "move", full)
    monkeypatch.setattr("compress.bulk.folder.write_text", lambda path, text: path.write_text(text))
    with pytest.raises(InputError) as error:
        draw(tiny_engine("causal"), tmp_path, format=form)
    assert str(error.value) == f"{tmp_path}: the disk is full; what was finished is kept, free space and run again"
    assert [path.name for path in tmp_path.glob("shard*")] == [moved[0].name]
    assert not list(tmp_path.glob(".draft*"))


def test_an_engine_that_is_exchanged_meanwhile_is_noticed(tiny_engine, here, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(drawing, "file_hash", lambda path: "other")
    with pytest.raises(InputError, match="the engine was exchanged while pictures were drawn; begin again"):
        draw(tiny_engine("causal"), tmp_path)


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        ("causal", {"labels": [3, 12]}, "label 12 is not a class"),
        ("causal", {"labels": None}, "--labels-file: needed, or --labels; this model draws classes"),
        ("causal", {"features": np.zeros((1, 5, 6), np.float32)}, "--features: this model draws no texts"),
        ("causal", {"steps": 3}, "steps 3: this model draws token by token"),
        ("causal", {"seed": -1}, "seed -1: must be a whole number"),
        ("causal", {"batch": 4, "shard": 10}, "--shard-size 10: is no multiple of the 4 pictures"),
        ("causal", {"on": "local:0"}, "--on: 'local:0' is no place to work"),
        ("causal", {"on": "ray", "device": "cuda"}, "--device: workers of a cluster draw on processors; leave it out"),
        ("causal", {"on": "ray", "require_plan": True}, "--device: workers of a cluster draw on processors"),
        ("causal", {"batch": 10**9}, "batch 1000000000: so many pictures at once take about"),
        ("without classes", {}, "--labels: this model knows no classes; give --count alone"),
        ("text", {}, "this model draws texts: give --features FILE.npy, and no labels"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tiny_engine, tmp_path, kind, given, text) -> None:
    with pytest.raises(InputError) as error:
        compress.draw_shards(tiny_engine(kind), tmp_path / "out", **{"labels": [1], **given})
    assert text in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_engine_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="nothing"):
        compress.draw_shards(tmp_path / "nothing", tmp_path / "out", [1])


def test_progress_says_how_fast_and_how_long(tiny_engine, monkeypatch) -> None:
    wish = generate.Wish(np.array(LABELS), count=100, batch=4, shard=8)
    job, _ = generate.planned(tiny_engine("causal"), wish, drawing.Opening())
    now = iter([10.0, 10.0, 14.0, 14.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = Progress(job, missing=80)
    assert progress.now() == (20, 100, {})
    progress.made = 8
    assert progress.now() == (28, 100, {"pictures/s": 2.0, "minutes left": 0.6})


PROGRAM = """
import json, sys
import compress
from compress.bulk.job import Written
from compress.bulk import generate
if __name__ == "__main__":
    engine, output, on = sys.argv[1:]
    usual = generate.publish
    def publish(content, place):
        usual(content, place)
        print(place.name, flush=True)
    generate.publish = publish
    compress.draw_shards(engine, output, [3, 1, 4, 1, 5, 9, 2], count=400, seed=7, batch=4, shard=8, on=on)
"""


def started(program: Path, engine: Path, output: Path, on: str) -> subprocess.Popen[str]:
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(engine), str(output), on]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("workers", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_whatever_is_killed_the_bytes_are_those_of_one_worker_alone(workers, tiny_engine, here, tmp_path) -> None:
    engine, output = tiny_engine("causal"), tmp_path / "out"
    wanted = files(draw(engine, tmp_path / "alone", count=400))
    job = started(tmp_path / "program.py", engine, output, f"local:{workers}")
    assert job.stdout.readline()
    os.kill(children(job.pid)[0], signal.SIGKILL)
    assert job.stdout.readline()
    job.kill()
    job.communicate()
    left = files(output)
    assert 2 <= len(left) < len(wanted)
    assert left == {name: wanted[name] for name in left}
    again = started(tmp_path / "program.py", engine, output, f"local:{workers}")
    assert (again.wait(60), files(output)) == (0, wanted)
    made = again.stdout.read().split()
    assert len(made) == len(wanted) - len(left)
    assert not left.keys() & set(made)
    assert {path.name for path in output.iterdir() if path.name.startswith(".")} == {".lock"}


@pytest.mark.slow
def test_a_ray_cluster_draws_the_same_bytes(ray, tiny_engine, here, tmp_path, monkeypatch) -> None:
    """The engine travels: a worker that looks where it lies on this machine finds nothing."""
    engine = tiny_engine("causal")
    wanted = files(draw(engine, tmp_path / "alone"))
    sent = []
    usual = drawing.Cargo.of
    monkeypatch.setattr(drawing.Cargo, "of", lambda folder: sent.append(folder) or usual(folder))
    assert files(draw(engine, tmp_path / "cluster", on="ray")) == wanted
    assert sent == [engine]

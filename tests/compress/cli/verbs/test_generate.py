"""The command `generate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from export.runtime.manifest import file_hash


def test_generate_draws_the_same_pictures_for_the_same_seed(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = invoke("generate", engine, "--labels", "3,1,4", "-o", tmp_path / f"{name}.png", "--seed", seed)
        assert result.stdout.startswith(f"{tmp_path}/{name}.png: 3 pictures in ")
        assert result.stdout.endswith(" images/s\n")
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert (a == b).all()
    assert (a != c).any()
    assert invoke("generate", checkpoint, "--labels", "3", "-o", tmp_path / "d.png", "--top-k", 1).exit_code == 0


def test_each_picture_gets_a_file_that_says_what_it_was_drawn_by(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    for name, model in (("e", engine), ("c", checkpoint)):
        given = ("generate", model, "--labels", "3,1", "--seed", 5, "--top-k", 4, "--out-dir", tmp_path / name)
        result = invoke(*given, "--format", "webp", "-o", tmp_path / f"{name}.png", "--grid", "1", "--json")
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        files = [str(tmp_path / name / f"000{index}-{label}-seed5.webp") for index, label in enumerate((3, 1))]
        assert (said["files"], said["sheet"]) == (files, str(tmp_path / f"{name}.png"))
        assert said["images_per_second"] == pytest.approx(2 / said["seconds"])
        assert said["sampler"]["top_k"] == 4
        by = file_hash(engine / "manifest.json") if model == engine else str(checkpoint)
        assert said["engine"] == by
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.size == (64, 124)
            assert (sheet.info["labels"], sheet.info["seed"], sheet.info["engine"]) == ("[3, 1]", "5", by)
            above = np.asarray(sheet)[4:60:7, 4:60:7]
        with Image.open(files[0]) as first:
            np.testing.assert_array_equal(np.asarray(first), above)


def test_two_models_draw_the_same_side_by_side_with_their_times(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result], refused: Callable[..., str]
) -> None:
    given = ("generate", engine, "--beside", checkpoint, "--labels", "3,1,4,1", "--seed", 5)
    result = invoke(*given, "-o", tmp_path / "b.png", "--out-dir", tmp_path / "each", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    both = said["beside"]
    assert (both["reference"]["model"], both["candidate"]["model"]) == (str(checkpoint), str(engine))
    assert both["speedup"] == pytest.approx(both["reference"]["seconds"] / both["candidate"]["seconds"])
    assert both["reference"]["seconds"] == sorted(both["reference"]["rounds"])[1], "the median of three rounds"
    assert said["seconds"] == both["candidate"]["seconds"]
    with Image.open(tmp_path / "b.png") as sheet:
        assert json.loads(sheet.info["reference"])["model"] == str(checkpoint)
        assert sheet.width > 3 * 124, "two panels of 2x2 pictures, and their difference"
    assert len(said["files"]) == 4
    alone = invoke("generate", engine, "--labels", "3,1,4,1", "--seed", 5, "--out-dir", tmp_path / "alone")
    assert alone.exit_code == 0
    for file in said["files"]:
        assert Path(file).read_bytes() == (tmp_path / "alone" / Path(file).name).read_bytes()
    lines = invoke(*given[:-2], "-o", tmp_path / "b.png").stdout.splitlines()
    assert lines[0] == f"{tmp_path}/b.png: 4 pictures"
    assert [line.partition(": ")[0] for line in lines[1:3]] == [str(checkpoint), str(engine)]
    assert lines[3].endswith(" times as fast as the reference (median of 3 rounds in turn, after a warm-up)")
    assert refused(*given, "--out-dir", tmp_path / "x") == "--beside: needs -o FILE for both side by side"
    line = "--beside: goes with no shards, whose pictures are drawn whole; leave it out"
    assert refused(*given, "--on", "local:1", "-o", tmp_path / "x") == line


def test_shards_and_files_have_options_of_their_own(engine: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    given = ("generate", engine, "--labels", "3")
    shards = "--out-dir: --labels-file, --on and --shard-size make shards, which -o takes; leave one out"
    assert refused(*given, "--out-dir", tmp_path / "a", "--on", "local:1") == shards
    assert refused(*given, "--format", "png") == "-o FOLDER: needed, the folder of the shards"
    line = "--format webp: is of files in --out-dir; shards hold webdataset or png"
    assert refused(*given, "-o", tmp_path / "a", "--format", "webp") == line
    line = "--format webdataset: is of shards, which -o takes; files in --out-dir are png, jpeg or webp"
    assert refused(*given, "--out-dir", tmp_path / "a", "--format", "webdataset") == line
    line = "--grid: goes with no shards, whose pictures are drawn whole; leave it out"
    assert refused(*given, "-o", tmp_path / "a", "--format", "png", "--grid", 3) == line
    line = "-o FILE: needed for a sheet of all pictures, or --out-dir FOLDER for a file each"
    assert refused(*given) == line
    assert refused(*given, "-o", tmp_path / "a.png", "--grid", "x").startswith("--grid 'x': is no grid like 4x3")
    line = "--name: pictures 0 and 1 would both be 'a.png'; {index} tells them apart"
    assert refused("generate", engine, "--labels", "3,1", "--out-dir", tmp_path / "a", "--name", "a") == line


def test_an_engine_keeps_the_upper_half_of_a_picture(
    engine: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    levels = (np.indices((8, 8)).sum(axis=0) * 18).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "in.png")
    given = ("generate", engine, "--labels", "3,4", "--image", tmp_path / "in.png")
    result = invoke(*given, "--keep", "0.5", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out.png") as opened:
        sheet = np.asarray(opened)[..., 0]
    drawn = sheet[4 : 4 + 56, 4 : 4 + 56][3::7, 3::7]  # the first picture, each pixel 7 wide in its frame of 4
    assert np.array_equal(drawn[:4], levels[:4]), "pasted, not decoded from 17 levels"
    assert not np.array_equal(drawn[4:], levels[4:])


def test_generate_says_which_options_go_together(engine: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    given = ("generate", engine, "-o", tmp_path / "out.png")
    lone = refused(*given, "--labels", "3", "--image", tmp_path / "in.png")
    assert lone == "--image goes with exactly one of --mask and --keep"
    line = "--blend: is of the border of what stays of an --image; give that too, or leave it out"
    assert refused(*given, "--labels", "3", "--blend", 2) == line
    assert (
        refused(*given, "--labels", "3", "--features", "f.npy") == "--features: this model draws no texts; leave it out"
    )
    assert refused(*given).startswith("--labels: needed, one of 0 to 9 for each picture")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--labels", "3,x"], "--labels: '3,x' is not a list of whole numbers like 3,1,4"),
        (["--labels", "12"], "--labels: label 12 is not a class; the model draws 0 to 9 (10 is unconditional)"),
        (
            ["--labels", f"{10**20}"],
            f"--labels: label {10**20} is not a class; the model draws 0 to 9 (10 is unconditional)",
        ),
        (["--labels", "3", "--temperature", "nan"], "temperature nan: must be a number"),
        (["--labels", "3", "--cfg-scale", "inf"], "cfg_scale inf: must be at most 1e+06"),
        (["--labels", "3", "--top-k", f"{10**20}"], f"top_k {10**20}: must be at most 2147483647"),
        (
            ["--labels", "3", "--device", "cpu", "--provider-option", "a=1"],
            "provider options a: the device cpu has none",
        ),
        (
            ["--labels", "3", "--device", "cuda", "--provider-option", "a"],
            "--provider-option: 'a' is not NAME=VALUE, like enable_cuda_graph=1",
        ),
        (
            ["--labels", "3", "--steps", "4"],
            "steps 4: this model draws token by token; leave it out (it takes cfg_scale, guidance, guidance_start, "
            "guidance_stop, temperature, end_temperature, top_k, top_p)",
        ),
    ],
)
def test_generate_refuses_what_it_cannot_draw(
    engine: Path, tmp_path: Path, refused: Callable[..., str], options: list[str], line: str
) -> None:
    assert refused("generate", engine, "-o", tmp_path / "out.png", *options) == line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--keep", "nan"], "'--keep': nan is not a number in the range 0<=x<=1"),
        (["--seed", f"{2**64}"], f"'--seed': {2**64} is not in the range 0<=x<={2**64 - 1}"),
        (["--threads", "2000"], "'--threads': 2000 is not in the range 1<=x<=1024"),
    ],
)
def test_generate_refuses_numbers_that_mean_nothing(
    engine: Path, tmp_path: Path, invoke: Callable[..., Result], options: list[str], text: str
) -> None:
    result = invoke("generate", engine, "--labels", "3", "-o", tmp_path / "out.png", *options)
    assert result.exit_code == 2
    assert text in result.output


def test_more_pictures_to_draw_or_score_than_memory_holds_are_refused(
    engine: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused("verify", engine, engine, "--tokens", "drawn", "--held-out", 10**20)
    assert line.startswith(f"--held-out: the logits of {10**20} pictures take about ")


@pytest.mark.parametrize("saturates", [True, False])
def test_an_engine_for_another_processor_draws_with_a_warning_in_one_line(
    engine: Path, tmp_path: Path, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, saturates: bool
) -> None:
    monkeypatch.setattr("export.runtime.loaded.products_saturate", lambda: saturates)
    folder = tmp_path / "engine"
    shutil.copytree(engine, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["cpu"] == "any"
    (folder / "manifest.json").write_text(json.dumps({**manifest, "cpu": "vnni"}))
    result = invoke("generate", folder, "--labels", "3", "-o", tmp_path / "out.png")
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if "warning" in line]
    wanted = f"warning: {folder}: made for x86 processors with VNNI"
    assert [line.startswith(wanted) for line in lines] == ([True] if saturates else [])


def test_many_pictures_go_into_shards(
    engine: Path, tmp_path: Path, invoke: Callable[..., Result], refused: Callable[..., str]
) -> None:
    (tmp_path / "labels.txt").write_text("3\n1\n4\n")
    given = ("generate", engine, "--labels-file", tmp_path / "labels.txt", "-o", tmp_path / "out")
    job = (*given, "--count", 5, "--on", "local:1", "--batch", 2, "--shard-size", 4)
    held = f"{tmp_path}/out: 5 pictures in 2 shards, shard-000000.tar to shard-000001.tar"
    first = invoke(*job)
    assert first.stdout.startswith(f"{held}; 5 drawn now, "), first.output
    facts = {"folder": f"{tmp_path}/out", "pictures": 5, "shards": 2, "drawn": 0, "images_per_second": None}
    assert json.loads(invoke(*job, "--json").stdout) == facts
    assert invoke(*job).stdout == f"{held}; all were there\n"
    other = f"{tmp_path}/out: holds pictures of another job, with seed 0 and not 1; choose another folder with -o"
    assert refused(*job, "--seed", 1) == other
    assert refused(*given, "--labels", "3") == "--labels and --labels-file: give one of both"
    whole = "--image: goes with no shards, whose pictures are drawn whole; leave it out"
    assert refused(*given, "--image", "x.png", "--keep", 0.5) == whole
    assert refused(*given, "--on", "here").startswith("--on: 'here' is no place to work")
    wrong = refused("generate", engine, "--labels", "3,x", "--on", "local:1", "-o", tmp_path / "x")
    assert wrong == "--labels: '3,x' is not a list of whole numbers like 3,1,4"


def test_a_sheet_is_a_file(engine: Path, tmp_path: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("generate", engine, "--labels", "3", "-o", tmp_path)
    assert result.exit_code == 2
    assert f"'{tmp_path}' is a folder; name a file." in result.output

"""The verbs that use a finished model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from calibration.tokens import TokenSet
from compress.cli.engines import read_features
from compress.core.settings import InputError


@pytest.fixture
def engine(shared_run) -> Path:
    """The engine of the finished run."""
    return shared_run.output / "engines" / "cpu"


def test_tokens_turns_a_folder_into_a_token_set(
    tmp_path: Path, checkpoint: Path, invoke: Callable[..., Result]
) -> None:
    (tmp_path / "pictures" / "3").mkdir(parents=True)
    for index in range(10):
        Image.new("L", (8, 8), 25 * index).save(tmp_path / "pictures" / "3" / f"{index}.png")
    result = invoke("tokens", tmp_path / "pictures", "-o", tmp_path / "t.npz", "--model", checkpoint)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path}/t.npz: 10 pictures of 64 tokens (8 train, 0 validation, 2 held-out)\n"
    assert len(TokenSet.load(tmp_path / "t.npz")) == 10


def test_tokens_wants_a_name_that_numpy_keeps(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused("tokens", tmp_path, "-o", tmp_path / "t") == f"--output: '{tmp_path}/t' must end in .npz"


def test_generate_draws_the_same_pictures_for_the_same_seed(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = invoke("generate", engine, "--labels", "3,1,4", "-o", tmp_path / f"{name}.png", "--seed", seed)
        assert result.stdout == f"{tmp_path}/{name}.png: 3 pictures\n"
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert (a == b).all()
    assert (a != c).any()
    assert invoke("generate", checkpoint, "--labels", "3", "-o", tmp_path / "d.png", "--top-k", 1).exit_code == 0


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
    assert np.abs(drawn[:4].astype(int) - levels[:4]).max() <= 255 / 16 / 2 + 1, "rounded to one of 17 levels"
    assert not np.array_equal(drawn[4:], levels[4:])


def test_generate_says_which_options_go_together(engine: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    given = ("generate", engine, "-o", tmp_path / "out.png")
    lone = refused(*given, "--labels", "3", "--image", tmp_path / "in.png")
    assert lone == "--image goes with exactly one of --mask and --keep"
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
        (["--labels", "3", "--steps", "4"], "steps 4: this model draws token by token; leave it out"),
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


@pytest.mark.parametrize("verb", ["bench", "profile"])
def test_more_pictures_at_once_than_memory_holds_are_refused_before_anything_is_made(
    engine: Path, refused: Callable[..., str], verb: str
) -> None:
    line = refused(verb, engine, "--batch", 10**20)
    assert f"batch {10**20}: so many pictures at once take about" in line


def test_more_pictures_to_draw_or_score_than_memory_holds_are_refused(
    engine: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused("verify", engine, engine, "--tokens", "drawn", "--held-out", 10**20)
    assert line.startswith(f"--held-out: the logits of {10**20} pictures take about ")


def npy(header: str, data: bytes = b"") -> bytes:
    """A .npy file with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a readable .npy file ("),
        (b"not an array", "not a readable .npy file ("),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 9, 9), }"),
            "not a readable .npy file (",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 9, 9), }"), "not a readable"),
        (npy("((((("), "not a readable .npy file ("),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }", b"x"), "not a readable .npy file ("),
        (
            npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1, 1), }", b"1234"),
            "holds int32 (1, 1, 1); floats",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }", b"1234"), "holds float32 (1, 1); floats"),
    ],
    ids=range(8),
)
def test_features_that_are_none_are_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "features.npy"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_features(path)
    assert str(error.value).startswith(f"--features: {path}: {text}")
    assert "\n" not in str(error.value)


def test_features_are_read_from_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    with pytest.raises(InputError, match=r"not a readable \.npy file"):
        read_features(path)
    os.mkfifo(path)
    with pytest.raises(InputError, match="is not a regular file"):
        read_features(path)
    np.savez(tmp_path / "features.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="holds an archive; floats"):
        read_features(tmp_path / "features.npz")
    np.save(tmp_path / "whole.npy", np.ones((2, 3, 4), dtype=np.float16))
    found = read_features(tmp_path / "whole.npy")
    assert (found.shape, found.dtype, float(found.min())) == ((2, 3, 4), np.float32, 1.0)


def test_verify_exits_with_1_where_a_gate_is_breached(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    gates = tmp_path / "gates.yaml"
    for limit, code in ((50, 0), (0, 1)):
        gates.write_text(f"kl: {limit}")
        result = invoke("verify", checkpoint, engine, "--gates", gates, "--held-out", 4, "--threads", 1)
        assert result.exit_code == code, result.output
        last = result.stdout.splitlines()[-1]
        assert last == "every gate holds" if code == 0 else last.startswith(f"breach: {engine}: kl ")


def test_verify_prints_json_and_the_same_verdict(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    (tmp_path / "gates.yaml").write_text("kl: 0")
    result = invoke("verify", checkpoint, engine, "--gates", tmp_path / "gates.yaml", "--held-out", 4, "--json")
    assert result.exit_code == 1
    value = json.loads(result.stdout)
    assert value["fidelity"]["pictures"] == 4
    assert value["verdict"]["breaches"][0]["measurement"] == "kl"


def test_verify_refuses_gates_it_does_not_know(
    engine: Path, checkpoint: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "gates.yaml").write_text("nll_drif: 2%")
    line = refused("verify", checkpoint, engine, "--gates", tmp_path / "gates.yaml")
    assert line == f"{tmp_path}/gates.yaml: unknown key 'nll_drif'; did you mean 'nll_drift'?"


@pytest.mark.parametrize("text", ["", "# kl: 0.1", "{}", "kl:", "decide: estimate", "null"])
def test_verify_refuses_gates_that_limit_nothing(
    checkpoint: Path, engine: Path, tmp_path: Path, refused: Callable[..., str], text: str
) -> None:
    (tmp_path / "gates.yaml").write_text(text)
    assert refused("verify", checkpoint, engine, "--gates", tmp_path / "gates.yaml") == (
        f"{tmp_path}/gates.yaml: this gate limits nothing; write a limit, for example  nll_drift: 2%, or leave it out"
    )


def test_bench_prints_a_row_for_each_engine_and_batch(
    engine: Path, checkpoint: Path, invoke: Callable[..., Result]
) -> None:
    arguments = ("bench", engine, checkpoint, "--batch", "1,2", "--repeats", 6, "--threads", 1)
    rows = json.loads(invoke(*arguments, "--json").stdout)
    assert [(row["engine"], row["speed"]["batch"]) for row in rows] == [
        (str(name), batch) for batch in (1, 2) for name in (engine, checkpoint)
    ]
    result = invoke("bench", engine, "--batch", "1", "--repeats", 6, "--threads", 1)
    assert "1 threads, 6 interleaved rounds; the first engine is the reference" in result.stdout


def test_bench_refuses_no_batch_and_too_few_rounds(
    engine: Path, refused: Callable[..., str], invoke: Callable[..., Result]
) -> None:
    assert refused("bench", engine, "--batch", "0") == "--batch: 0 is out of range; it must be at least 1"
    assert invoke("bench", engine, "--repeats", 5).exit_code == 2


def test_report_shows_a_finished_run_again(shared_run, invoke: Callable[..., Result]) -> None:
    result = invoke("report", shared_run.output)
    assert result.exit_code == 0
    assert "passed: every gate was kept" in result.stdout
    value = json.loads(invoke("report", shared_run.output, "--json").stdout)
    assert value == json.loads((shared_run.output / "report.json").read_text())


def test_a_page_of_a_report_with_a_recipe_of_another_form_is_one_line(
    shared_run, tmp_path: Path, refused: Callable[..., str]
) -> None:
    value = json.loads((shared_run.output / "report.json").read_text())
    value["recipe"]["tokens"] = 3
    (tmp_path / "report.json").write_text(json.dumps(value))
    line = refused("report", tmp_path, "--open")
    assert line.startswith(f"{tmp_path}/report.json: holds what no page can show ('int' object has no attribute 'get'")


def test_report_wants_a_run(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused("report", tmp_path).startswith(f"{tmp_path}/report.json: there is no report here")


def test_profile_shows_where_the_time_goes(engine: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("profile", engine, "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["roofline"]["threads"] == 1
    assert {"attention", "feed-forward", "head"} <= {row["kind"] for row in value["rows"]}
    shown = invoke("profile", engine, "--threads", 1)
    assert "of the limit" in shown.stdout
    assert "attention" in shown.stdout


def test_bisect_names_where_an_engine_departs(engine: Path, checkpoint: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("bisect", engine, engine, "--pictures", 2, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "no layer departs" in result.stdout
    other = invoke("bisect", checkpoint, engine, "--pictures", 2, "--threads", 1, "--json")
    assert other.exit_code == 1
    assert json.loads(other.stdout)["departs"] == "embedding", "it was distilled"


def test_bisect_draws_the_error_of_each_layer(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result], refused: Callable[..., str]
) -> None:
    plot = tmp_path / "layers.svg"
    assert invoke("bisect", checkpoint, engine, "--pictures", 2, "--threads", 1, "--plot", plot).exit_code == 1
    assert ElementTree.parse(plot).getroot().get("aria-label") == "Drift by layer"
    assert "must end in .svg" in refused("bisect", checkpoint, engine, "--plot", tmp_path / "layers.png")


def test_the_self_test_needs_no_arguments(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.verify import selftest

    for caught, code in ((True, 0), (False, 1)):
        row = selftest.Caught("two heads swapped", ("one pass",) * caught, "", "")
        monkeypatch.setattr(selftest, "run", lambda report, row=row: selftest.SelfTest((row,), 0, 100, 4))
        result = invoke("verify", "--self-test")
        assert result.exit_code == code
        assert result.stdout.splitlines()[-1] == f"caught {int(caught)} of 1; false alarms 0 of 100"


def test_verify_writes_what_a_ci_reads(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    gates, xml, page = tmp_path / "gates.yaml", tmp_path / "out.xml", tmp_path / "out.md"
    gates.write_text("kl: 0\nagreement: 0.0\n")
    written = ("--gates", gates, "--junit", xml, "--markdown", page)
    result = invoke("verify", checkpoint, engine, "--held-out", 8, "--threads", 1, *written)
    assert result.exit_code == 1
    (suite,) = ElementTree.parse(xml).getroot().findall("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    failed = [case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None]
    assert failed == ["kl"]
    assert "is above the gate's 0 nats" in suite.find("testcase/failure").get("message")
    text = page.read_text()
    assert text.startswith("# Failed: 1 breach\n")
    assert "| agreement | 0 % | kept |" in text
    assert "| sampled flip_rate |" in text
    same = invoke("verify", checkpoint, checkpoint, "--held-out", 8, "--threads", 1, "--junit", xml)
    assert same.exit_code == 0
    assert ElementTree.parse(xml).getroot().find("testsuite").get("failures") == "0"


def test_runs_are_compared_engine_by_engine(shared_run, tmp_path: Path, invoke: Callable[..., Result]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    changed = json.loads((shared_run.output / "report.json").read_text())
    changed["recipe"]["seed"] = 7
    (other / "report.json").write_text(json.dumps(changed))
    result = invoke("report", "--compare", other, shared_run.output, "--json")
    found = json.loads(result.stdout)
    assert list(found["engines"]) == [str(other), str(shared_run.output)], "in the order that was asked for"
    assert [row["engine"] for rows in found["engines"].values() for row in rows] == ["cpu", "cpu"]
    assert found["differences"] == [["recipe.seed", "7", "0"]]
    page = tmp_path / "both.html"
    shown = invoke("report", other, shared_run.output, "--compare", "-o", page)
    assert shown.exit_code == 0
    assert "recipe.seed" in shown.stdout
    assert "recipe.seed" in page.read_text()


def test_report_says_how_many_runs_it_takes(shared_run, tmp_path: Path, refused: Callable[..., str]) -> None:
    run = shared_run.output
    assert "--compare compares several runs" in refused("report", "--compare", run)
    assert "--compare belongs to several runs" in refused("report", run, run)
    assert "--output goes with --compare" in refused("report", run, "-o", tmp_path / "page.html")


def test_a_report_opens_in_the_browser(
    shared_run, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert invoke("report", shared_run.output, "--open").exit_code == 0
    assert opened == [(shared_run.output / "report.html").resolve().as_uri()]


@pytest.mark.parametrize("saturates", [True, False])
def test_an_engine_for_another_processor_draws_with_a_warning_in_one_line(
    engine: Path, tmp_path: Path, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, saturates: bool
) -> None:
    monkeypatch.setattr("export.runtime.engine.products_saturate", lambda: saturates)
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

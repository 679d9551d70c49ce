"""Stores with damaged, exchanged, linked or foreign files, and reports that are none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.core.store import Damage, Store

DEEP = "[" * 100_000


@pytest.fixture
def store(corpus: Path, here: Path) -> Path:
    """A copy of the store that a test may change."""
    shutil.copytree(corpus / "store", here / "store")
    return here / "store"


def entries(store: Path) -> list[Path]:
    """The entries of all artifacts."""
    return sorted(store.glob("artifacts/*/entry.json"))


ENTRIES: dict[str, str] = {
    "a list": "[]",
    "files a list": '{"key": "k", "made_by": {}, "files": []}',
    "null": "null",
    "a number": "5",
    "nothing": "",
    "deep": DEEP,
    "no files": '{"key": "k", "made_by": {"pass": "export"}}',
    "made by text": '{"made_by": "x", "files": {}}',
    "a size of text": '{"made_by": {"pass": "export"}, "files": {"a": ["0", "x"]}}',
    "a negative size": '{"made_by": {"pass": "export"}, "files": {"a": ["0", -5]}}',
    "NaN": "NaN",
    "bytes": "\x00\x01",
    "a size of NaN": '{"made_by": {"pass": "[red]"}, "files": {"a": ["0", NaN]}}',
}
USERS = (
    "[]", "{}", '{"recipe": 5, "keys": []}', '{"recipe": "x", "keys": 5}', '{"recipe": null}', "", DEEP,
    '{"recipe": "/dev/zero", "keys": [[]]}', '{"recipe": "a\\u0000b", "keys": []}',
)  # fmt: skip


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_damaged_entry_is_listed_as_such(kind: str, store: Path, works: Callable[..., str]) -> None:
    entries(store)[0].write_text(ENTRIES[kind])
    assert "(damaged)" in works("store", "list", "--store", store)
    json.loads(works("store", "list", "--store", store, "--json"))


@pytest.mark.parametrize("kind", USERS)
def test_a_damaged_user_is_passed_over(kind: str, store: Path, works: Callable[..., str]) -> None:
    (store / "users" / "u.json").write_text(kind)
    works("store", "list", "--store", store)
    works("store", "gc", "--max-size", "0", "--store", store)
    assert not entries(store)


def test_an_artifact_in_the_place_of_another_is_damage(store: Path) -> None:
    (path,) = entries(store)[:1]
    other = store / "artifacts" / ("0" * 64)
    shutil.copytree(path.parent, other)
    assert Store(store).find(path.parent.name) is not None
    with pytest.raises(Damage):
        Store(store).find(other.name)


def test_an_artifact_in_the_place_of_another_is_made_again(
    corpus: Path, store: Path, here: Path, invoke: Callable[..., Any]
) -> None:
    path = entries(store)[0]
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "key": "0" * 64}))
    result = invoke("run", corpus / "tiny.yaml", "--store", store, "-o", here / "run", "--skip-preflight")
    assert result.exit_code == 0, result.output
    assert "made again" in result.stderr


@pytest.mark.parametrize(
    "name",
    ["../../outside", "/etc/passwd", "sub/../../../outside", ""],
    ids=["above", "absolute", "through", "nothing"],
)
def test_an_entry_that_lists_a_file_outside_is_damage(name: str, store: Path, here: Path) -> None:
    (here / "outside").write_text("x")
    path = entries(store)[0]
    value = json.loads(path.read_text())
    value["files"][name] = next(iter(value["files"].values()))
    path.write_text(json.dumps(value))
    with pytest.raises(Damage):
        Store(store).find(path.parent.name)


def test_a_file_that_no_entry_lists_is_damage_or_is_not_read(store: Path) -> None:
    path = entries(store)[0]
    for name in json.loads(path.read_text())["files"]:
        target = path.parent / name
        data = target.read_bytes()
        target.unlink()
        os.mkfifo(target)
        with pytest.raises(Damage):
            Store(store).find(path.parent.name)
        target.unlink()
        target.symlink_to("/dev/zero")
        with pytest.raises(Damage):
            Store(store).find(path.parent.name)
        target.unlink()
        target.write_bytes(data)
    assert Store(store).find(path.parent.name) is not None


def test_a_store_of_hard_links_is_used(corpus: Path, store: Path, here: Path, works: Callable[..., str]) -> None:
    shutil.copytree(store, here / "backup", copy_function=os.link)
    works("run", corpus / "tiny.yaml", "--store", store, "-o", here / "run", "--skip-preflight")
    works("generate", here / "run" / "engines" / "cpu", "--labels", 1, "-o", here / "o.png")


def test_hard_linked_weights_beside_a_graph_are_read(corpus: Path, here: Path) -> None:
    import onnx_ir as ir

    from export.graph.onnx_model import OnnxModel
    from export.graph.weights import save_graph

    shutil.copytree(corpus / "engine", here / "e")
    model = OnnxModel.load(here / "e")
    (here / "f").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.graph.weights.BESIDE", 1)
        patch.setattr("export.graph.weights.SMALLEST", 1)
        model.save(here / "f")
    beside = [path for path in (here / "f").iterdir() if path.suffix == ".data"]
    assert beside, "weights lie beside the graph"
    for path in beside:
        os.link(path, here / f"backup-{path.name}")
    again = OnnxModel.load(here / "f")
    assert isinstance(again.decode if hasattr(again, "decode") else again.graph, ir.Model)
    (here / "g").mkdir()
    save_graph(again.decode if hasattr(again, "decode") else again.graph, here / "g" / "x.onnx")


PLACES = (
    "drafts/abc-1",
    "drafts/abc",
    "artifacts/abc",
    "users/abc.json",
    "measurements/abc.json",
    "work/abc",
    "locks/abc",
)


@pytest.mark.parametrize("target", ["elsewhere", "nothing", "elsewhere/file"])
@pytest.mark.parametrize("place", PLACES)
def test_a_link_in_a_store_is_removed_or_passed_over_and_its_target_stays(
    place: str, target: str, store: Path, here: Path, works: Callable[..., str]
) -> None:
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "file").write_text("stays")
    (store / place).symlink_to(here / target)
    works("store", "list", "--store", store)
    works("store", "gc", "--max-size", "0", "--store", store)
    assert (here / "elsewhere" / "file").read_text() == "stays"
    assert not (store / "drafts" / "abc-1").is_symlink()


def test_what_is_no_store_is_refused_or_empty(here: Path, corpus: Path, refused: Callable[..., str]) -> None:
    (here / "file").write_text("x")
    refused("store", "gc", "--max-size", "0", "--store", here / "file", named=("file",))
    refused("run", corpus / "tiny.yaml", "--store", here / "file", "-o", here / "run", named=("file",))


REPORTS: dict[str, bytes] = {
    "deep": DEEP.encode(), "nothing": b"", "a list": b"[]", "null": b"null", "half": b'{"verdict": {"passed"',
    "bytes": b"\xff\x00",
    "NaN": b"NaN", "empty": b"{}", "doubled": b'{"format": 1, "format": 1}', "a long number": b"9" * 5000,
    "deep mappings": b'{"a":' * 50_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("verb", [(), ("--json",), ("--compare",)])
def test_a_report_that_is_none_is_refused(
    kind: str, verb: tuple[str, ...], corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    (here / "run").mkdir()
    (here / "run" / "report.json").write_bytes(REPORTS[kind])
    runs = (here / "run", corpus / "run") if verb == ("--compare",) else (here / "run",)
    refused("report", *runs, *verb, named=("report.json",))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(vredict={}),
        lambda value: value.update(format=2),
        lambda value: value["verdict"].update(passed="yes"),
        lambda value: value["verdict"].update(breaches=[5]),
        lambda value: value.update(engines={}),
        lambda value: value.update(engines=[None]),
        lambda value: value["reference"].update(fidelity=[]),
        lambda value: value["reference"].pop("name"),
        lambda value: value.update(steps=[{}]),
        lambda value: value.update(environment=None),
    ],
)
def test_a_report_with_a_wrong_value_is_refused(
    change: Callable[[Any], object], corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    value = json.loads((corpus / "run" / "report.json").read_text())
    change(value)
    (here / "run").mkdir()
    (here / "run" / "report.json").write_text(json.dumps(value))
    refused("report", here / "run", named=("report.json",))


@pytest.mark.parametrize(
    "text", [DEEP, "[]", "", '{"sha256": 5, "value": {}}', '{"sha256": "0", "value": NaN}', "null"]
)
def test_a_damaged_measurement_is_said_and_measured_again(text: str, store: Path) -> None:
    path = sorted(store.glob("measurements/*.json"))[0]
    path.write_text(text)
    said: list[str] = []
    assert Store(store).measurement(path.stem, lambda: {"ms": 1.0}, said.append) == {"ms": 1.0}
    assert any("damaged" in line for line in said)

"""A measure is one file: what a third party adds is run, judged, reported and verified without a word elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

from compress import report as reports
from compress.core.settings import InputError
from compress.measure import EngineMeasurement, measures
from compress.measure.drift.cached_loop import CachedLoop
from compress.measure.measurement import own_names
from compress.recipe import gates
from compress.report.data.schema import schema

PAGE = Path(__file__).parents[3] / "docs" / "measuring.md"
EXAMPLE = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL).group(1)  # type: ignore[union-attr]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package of one file whose entry point is a measure: `installed(text, "Brightness", "module")`."""

    def install(text: str, name: str, module: str) -> None:
        folder = tmp_path / "theirs"
        (folder / f"{module}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{module}.py").write_text(text)
        (folder / f"{module}-1.0.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 1.0\n")
        entry = f"[compress.measures]\n{name.lower()} = {module}:{name}\n"
        (folder / f"{module}-1.0.dist-info" / "entry_points.txt").write_text(entry)
        monkeypatch.syspath_prepend(str(folder))

    return install


def test_the_measures_of_the_rooms_are_found_by_their_files() -> None:
    names = [each.name for each in measures()]
    assert names == [
        *("cached_loop", "coupled", "fidelity_drawn", "fidelity", "layers", "one_file", "sampled", "sampler"),
        "worst",
        *("class_accuracy", "decoding", "distribution", "encoding", "shown", "low_precision_share", "plans"),
        "single_file",
    ]
    further = {"cached_loop", "one_file", "sampler", "worst", "encoding", "shown", "plans"}
    assert set(names) - own_names(EngineMeasurement) == further


def test_the_example_of_the_page_is_run_judged_reported_and_verified(
    finished, installed, invoke: Callable[..., Result], checkpoint: Path, tmp_path: Path
) -> None:
    installed(EXAMPLE, "Brightness", "their_measures")
    path = finished.changed(("gate: {kl: 50}\n", "gate: {brighter: 0}\n"))
    path.write_text(path.read_text().replace("gate:        {brighter: 0}", "gate:        {kl: 50}"))
    result = invoke("run", path, "--store", finished.store, "-o", finished.output, "--skip-preflight")
    assert result.exit_code == 1, result.output
    assert ": made" not in result.stderr, "artifacts and other measurements are reused"
    (breach,) = json.loads((finished.output / "report.json").read_text())["verdict"]["breaches"]
    assert re.match(r"cpu: brighter \S+ \(95 % interval up to \S+\) is above the gate's 0$", breach["text"])

    found = json.loads((finished.output / "report.json").read_text())["engines"][0]["measures"]["brightness"]
    assert found["pictures"] == 20
    assert schema()["$defs"]["Brightness"]["properties"]["change"]["description"].startswith("mean difference of")
    markdown = (finished.output / "report.md").read_text()
    assert "## Brightness\n\nHow much an engine's pictures are brighter than" in markdown
    assert "| model | grey levels |" in markdown
    page = (finished.output / "report.html").read_text()
    assert "cpu: brightness" in page, "every number"
    assert "grey levels, of 16" in page

    loaded = reports.load(finished.output / "report.json")
    assert type(loaded.engines[0].measures["brightness"]).__name__ == "Brightness"
    (tmp_path / "gates.yaml").write_text("brighter: 0\n")
    engine, junit = finished.output / "engines" / "cpu", tmp_path / "drift.xml"
    command = ("verify", checkpoint, engine, "--held-out", 4, "--gates", tmp_path / "gates.yaml", "--json")
    verified = json.loads(invoke(*command, "--junit", junit, "--markdown", tmp_path / "drift.md").stdout)
    assert verified["measures"]["brightness"]["pictures"] == 4
    assert "brighter" in [case.get("name") for case in ElementTree.parse(junit).iter("testcase")]
    assert "| brightness change |" in (tmp_path / "drift.md").read_text()


def test_a_report_with_a_measure_that_is_not_installed_can_be_read(finished) -> None:
    value = json.loads((finished.output / "report.json").read_text())
    value["engines"][0]["measures"] = {"theirs": {"x": 1}}
    (finished.output / "report.json").write_text(json.dumps(value))
    found = reports.load(finished.output / "report.json").engines[0].measures
    assert found == {"theirs": {"x": 1}}


def test_a_measure_of_a_new_version_is_measured_again_and_no_other(
    finished, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in (finished.store / "measurements").iterdir()}
    monkeypatch.setattr(CachedLoop, "version", CachedLoop.version + 1)
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output, "--skip-preflight")
    assert result.exit_code == 0, result.output
    added = [path for path in (finished.store / "measurements").iterdir() if path.name not in before]
    assert ["max_abs_difference" in path.read_text() for path in added] == [True]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("import nowhere", "Odd", "measure 'odd' (odd_0:Odd): cannot be loaded (ModuleNotFoundError: No module named"),
        ("Odd = 3", "Odd", "measure 'odd' (odd_1:Odd): is no dataclass derived from compress.measure.Measure that has"),
        (EXAMPLE.replace('"brightness"', '"notes"'), "Brightness", "the name 'notes' is taken; give it another"),
        (EXAMPLE.replace('"brightness"', '"fidelity"'), "Brightness", "the name 'fidelity' is taken; give it another"),
        (EXAMPLE.replace('"brighter"', '"kl"'), "Brightness", "measure 'Brightness': its gate 'kl' is taken; give"),
        (EXAMPLE.replace('"brighter"', '"decide"'), "Brightness", "measure 'Brightness': its gate 'decide' is taken;"),
    ],
)
def test_what_is_no_measure_or_takes_a_name_is_refused(
    installed, text: str, name: str, message: str, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["text"]
    installed(text, name, f"odd_{number}")
    with pytest.raises(InputError) as caught:
        gates.keys()
    assert message in str(caught.value)

"""The pages in docs/ name what the code has: passes and settings, keys of recipes, shipped recipes, files, links."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from compress.core.settings import bound
from compress.data.reading import Reading
from compress.models.artifact import Form
from compress.models.families import Source
from compress.passes import find
from compress.recipe import gates
from compress.recipe.recipe import Bench, Layout, TokenSource
from compress.training.transformer import AugmentSettings, ModelSettings, TrainRecipe, TrainSettings
from export import targets
from export.rewrites import fusions
from export.runtime import deployment
from export.runtime.sampling import Sampler

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
OWN_PASSES = sorted(
    path.stem.replace("_", "-") for path in (ROOT / "compress/passes").glob("*.py") if path.stem != "__init__"
)
RECIPE_KEYS = (Layout, Source, TokenSource, Bench, TrainRecipe, ModelSettings, TrainSettings, AugmentSettings, Reading)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    """A page of docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level."""
    level = re.match("#+", heading)[0]
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def row(page: str, key: str) -> str:
    """The row of a table that begins with a key."""
    found = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
    assert found, f"no row of a table begins with `{key}`"
    return found[0]


def anchor(heading: str) -> str:
    """The fragment that a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", OWN_PASSES)
def test_a_pass_has_a_section_with_a_row_for_every_setting(name: str) -> None:
    described, found = section(text("passes.md"), f"## {name}"), find(name, "docs")
    for field in fields(found):
        words = row(described, field.name)
        for end in (field.metadata["low"], field.metadata["high"]):
            assert end is None or bound(end) in words, f"{name}.{field.name}: {bound(end)} is not in its row"
        if isinstance(field.default, (int, float, str)) and not isinstance(field.default, bool):
            assert f"| {field.default} |" in words, f"{name}.{field.name}: its default is not {field.default}"


@pytest.mark.parametrize("name", OWN_PASSES)
def test_the_list_of_passes_says_forms_and_exactness(name: str) -> None:
    found = find(name, "docs")
    forms = f"{found.accepts.value} → {found.returns.value} | {'exact' if found.exact else 'lossy'}"
    assert f"| [`{name}`](#{name}) | {forms} |" in text("passes.md")
    assert found.accepts in Form


def test_every_fusion_has_a_row_that_says_its_targets() -> None:
    described = section(text("passes.md"), "## fuse")
    for name in fusions.names():
        cells = [cell.strip() for cell in row(described, name).split("|")[3:6]]
        runs = [target for target, cell in zip(deployment.OWN, cells, strict=True) if cell != "–"]
        assert runs == [target for target in deployment.OWN if name in targets.find(target).fusions], name


@pytest.mark.parametrize("kind", RECIPE_KEYS, ids=lambda kind: kind.__name__)
def test_every_key_of_a_recipe_has_a_row(kind: type) -> None:
    for field in fields(kind):
        row(text("recipes.md"), field.name)


def test_every_key_of_a_sampler_has_a_row() -> None:
    for field in fields(Sampler):
        row(text("recipes.md"), field.name)


def test_the_table_of_gates_is_what_the_measures_say() -> None:
    assert "\n".join(gates.table()) in section(text("measuring.md"), "## Gates"), (
        "run: python -m compress.recipe.gates, and put its output into docs/measuring.md"
    )
    for field in fields(gates.Gate):
        row(text("measuring.md"), field.name)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_is_described(path: Path) -> None:
    row(text("recipes.md"), f"recipes/{path.name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_resolves(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, fragment = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link}: there is no such file"
        if fragment:
            headings = HEADING.findall(FENCE.sub("", target.read_text(encoding="utf-8")))
            assert fragment in map(anchor, headings), f"{page.name}: {link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_at_most_120_wide(page: Path) -> None:
    """Tables, code and output keep their lines."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    assert [line for line in prose if len(line) > 120 and not line.startswith(("|", "    "))] == []


def test_every_file_that_the_architecture_names_exists() -> None:
    for path in re.findall(r"`((?:compress|export|calibration|tests)/[\w./]+)`", text("architecture.md")):
        assert (ROOT / path).exists(), path


def test_the_workflow_for_a_ci_is_yaml_and_its_command_exists() -> None:
    from compress.cli import main

    workflow = yaml.safe_load(re.search(r"```yaml\n(name: drift.*?)```", text("ci.md"), re.S).group(1))  # type: ignore[union-attr]
    commands = [step["run"] for step in workflow["jobs"]["verify"]["steps"] if "compress " in step.get("run", "")]
    (command,) = commands
    _, verb, *rest = command.split()
    known = {name for option in main.commands[verb].params for name in option.opts}
    assert {each for each in rest if each.startswith("--")} <= known

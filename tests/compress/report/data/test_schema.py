import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

import compress.report.data.schema as module
from compress.report import write
from compress.report.data.schema import schema

RULES = Draft202012Validator(schema())


def test_the_committed_schema_is_what_the_dataclasses_say():
    committed = Path(module.__file__).with_name("schema.json").read_text()
    assert json.loads(committed) == schema(), (
        "run: python -m compress.report.data.schema > compress/report/data/schema.json"
    )


def test_the_schema_is_one_of_its_dialect():
    Draft202012Validator.check_schema(schema())


def test_a_written_report_keeps_the_schema(report, tmp_path):
    RULES.validate(json.loads(write(report, tmp_path).read_text()))


@pytest.mark.parametrize(
    ("spoil", "path", "rule"),
    [
        (lambda value: value.pop("verdict"), "$", "required"),
        (lambda value: value["steps"][0].update(extra=1), "$.steps[0]", "additionalProperties"),
        (lambda value: value["steps"][0].update(form="jax"), "$.steps[0].form", "enum"),
        (lambda value: value["engines"][0].update(exact=1), "$.engines[0].exact", "type"),
        (lambda value: value["steps"][0]["fidelity"].update(kl_ci95=[1]), "$.steps[0].fidelity.kl_ci95", "minItems"),
        (lambda value: value["environment"]["libraries"].update(x=2), "$.environment.libraries.x", "type"),
    ],
)
def test_the_schema_finds_what_is_wrong(report, tmp_path, spoil, path, rule):
    value = json.loads(write(report, tmp_path).read_text())
    spoil(value)
    found = best_match(RULES.iter_errors(value))
    assert (found.json_path, found.validator) == (path, rule)


def test_every_key_is_documented():
    for name, definition in {"Report": schema(), **schema()["$defs"]}.items():
        for key, rule in definition["properties"].items():
            assert len(rule["description"]) > 8, f"{name}.{key}"


def test_every_key_is_in_the_page_on_measuring():
    page = (Path(__file__).parents[4] / "docs" / "measuring.md").read_text()
    for name, definition in {"Report": schema(), **schema()["$defs"]}.items():
        for key in definition["properties"]:
            assert f"`{key.removesuffix('_ci95')}`" in page, f"{name}.{key}"

import json
from pathlib import Path

import pytest

import compress.report.data.schema as module
from compress.report import write
from compress.report.data.schema import schema

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "number": (int, float), "integer": int}


def complaints(value, rule, definitions, where="report"):
    """What of the value breaks the rule, for the keywords that the schema uses."""
    if "$ref" in rule:
        rule = definitions[rule["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in rule:
        options = [list(complaints(value, option, definitions, where)) for option in rule["anyOf"]]
        yield from () if [] in options else options[0]
    if "enum" in rule and value not in rule["enum"]:
        yield f"{where}: {value!r}"
    if rule.get("type") == "null":
        yield from () if value is None else [f"{where}: not null"]
    elif "type" in rule and (
        not isinstance(value, TYPES[rule["type"]]) or (isinstance(value, bool) and rule["type"] != "boolean")
    ):
        yield f"{where}: {value!r} is no {rule['type']}"
    elif rule.get("type") == "object":
        yield from (f"{where}.{key}: missing" for key in rule.get("required", ()) if key not in value)
        for key, item in value.items():
            inner = rule.get("properties", {}).get(key, rule.get("additionalProperties", True))
            if inner is False:
                yield f"{where}.{key}: unknown"
            else:
                yield from complaints(item, {} if inner is True else inner, definitions, f"{where}.{key}")
    elif rule.get("type") == "array":
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            yield f"{where}: {len(value)} items"
        for index, item in enumerate(value):
            yield from complaints(item, rule["items"], definitions, f"{where}[{index}]")


def test_the_committed_schema_is_what_the_dataclasses_say():
    committed = Path(module.__file__).with_name("schema.json").read_text()
    assert json.loads(committed) == schema(), (
        "run: python -m compress.report.data.schema > compress/report/data/schema.json"
    )


def test_a_written_report_keeps_the_schema(report, tmp_path):
    value, rules = json.loads(write(report, tmp_path).read_text()), schema()
    assert list(complaints(value, rules, rules["$defs"])) == []


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda value: value.pop("verdict"), "report.verdict: missing"),
        (lambda value: value["steps"][0].update(extra=1), "report.steps[0].extra: unknown"),
        (lambda value: value["steps"][0].update(form="jax"), "report.steps[0].form: 'jax'"),
        (lambda value: value["engines"][0].update(exact=1), "report.engines[0].exact: 1 is no boolean"),
        (lambda value: value["steps"][0]["fidelity"].update(kl_ci95=[1]), "report.steps[0].fidelity.kl_ci95: 1 items"),
        (lambda value: value["environment"]["libraries"].update(x=2), "report.environment.libraries.x: 2 is no string"),
    ],
)
def test_the_schema_finds_what_is_wrong(report, tmp_path, spoil, complaint):
    value, rules = json.loads(write(report, tmp_path).read_text()), schema()
    spoil(value)
    assert list(complaints(value, rules, rules["$defs"])) == [complaint]


def test_every_key_is_documented():
    for name, definition in {"Report": schema(), **schema()["$defs"]}.items():
        for key, rule in definition["properties"].items():
            assert len(rule["description"]) > 8, f"{name}.{key}"


def test_every_key_is_in_the_page_on_measuring():
    page = (Path(__file__).parents[4] / "docs" / "measuring.md").read_text()
    for name, definition in {"Report": schema(), **schema()["$defs"]}.items():
        for key in definition["properties"]:
            assert f"`{key.removesuffix('_ci95')}`" in page, f"{name}.{key}"

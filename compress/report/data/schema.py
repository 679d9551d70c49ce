"""The JSON schema of report.json.

`python -m compress.report.data.schema` prints it; schema.json beside this file is its output, and a test compares
the two.
"""

from __future__ import annotations

import json
from typing import Any

from compress.core.json_schema import DIALECT, Schemas
from compress.measure import EngineMeasurement, measures
from compress.measure.measurement import own_names
from compress.report import Report


def schema() -> dict[str, Any]:
    """The schema, made from the dataclasses that write it."""
    schemas = Schemas()
    schemas.define(Report)
    further = {each.name: each for each in measures() if each.name not in own_names(EngineMeasurement)}
    found = {name: schemas.kind(each) for name, each in further.items()}
    for row in ("Measurement", "EngineMeasurement"):
        schemas.definitions[row]["properties"]["measures"]["properties"] = found
    top = schemas.definitions.pop("Report")
    return {"$schema": DIALECT, "title": "report.json", **top, "$defs": schemas.definitions}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))

"""The command `doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result


def test_doctor_prints_the_machine_and_what_runs(invoke: Callable[..., Result]) -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "ONNX Runtime" in result.stdout
    value = json.loads(invoke("doctor", "--json").stdout)
    assert value["machine"]["cores"] >= 1
    assert any(check["name"] == "TensorRT" for check in value["checks"])

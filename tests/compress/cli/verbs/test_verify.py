"""The command `verify`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

from compress.models.families import reference


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


def test_the_self_test_needs_no_arguments(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.verifying import selftest
    from compress.verifying.selftest.trial import Seen

    monkeypatch.setattr(selftest.SelfTest, "unneeded", ())
    quiet = selftest.Quiet("heads permuted", "fused", "exact", 60, (), "")
    for caught, code in ((True, 0), (False, 1)):
        seen = Seen(("kl", "total_variation") * caught, (), ())
        row = selftest.Caught("two heads swapped", "fused", "exact", True, seen, ("blocks.1",), "blocks.1")
        made = selftest.SelfTest((row,), (quiet,), 200, 10, 123.4)
        monkeypatch.setattr(selftest, "run", lambda report, made=made: made)
        result = invoke("verify", "--self-test")
        assert result.exit_code == code
        assert f"caught {int(caught)} of 1; placed 1 of 1" in result.stdout.splitlines()
        assert ("kl +1" in result.stdout) is caught
        assert ("missed: two heads swapped (fused)" in result.stdout) is not caught
        assert result.stdout.splitlines()[-1] == f"123 s of processor time; {'passed' if caught else 'NOT passed'}"
        assert max(map(len, result.stdout.splitlines()[:14])) <= 80


def test_verify_writes_what_a_ci_reads(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    gates, xml, page = tmp_path / "gates.yaml", tmp_path / "out.xml", tmp_path / "out.md"
    gates.write_text("kl: 0\nagreement: 0.0\n")
    written = ("--gates", gates, "--junit", xml, "--markdown", page)
    result = invoke("verify", checkpoint, engine, "--held-out", 8, "--threads", 1, *written)
    assert result.exit_code == 1
    (suite,) = ElementTree.parse(xml).getroot().findall("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("9", "1")
    names = [case.get("name") for case in suite.findall("testcase")]
    assert names[:4] == ["kl", "agreement", "cached_loop", "coupled_tokens"]
    assert names[4:] == ["sampler_tokens", "sampler", "encoder_agreement", "images", "evidence"]
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


def test_what_cannot_be_measured_is_an_error_in_the_file_of_a_ci(
    checkpoint: Path, tmp_path: Path, tiny_model, invoke: Callable[..., Result]
) -> None:
    model, xml = tiny_model(), tmp_path / "out.xml"
    model.transformer.head.weight.data[3] = float("nan")
    (tmp_path / "damaged").mkdir()
    reference.save(model, tmp_path / "damaged")
    result = invoke("verify", checkpoint, tmp_path / "damaged", "--held-out", 8, "--threads", 1, "--junit", xml)
    assert result.exit_code == 2
    suite = ElementTree.parse(xml).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "1")
    assert "NaN" in suite.find("testcase/error").get("message")


def test_the_shipped_gates_judge_by_their_names(engine: Path, checkpoint: Path, invoke: Callable[..., Result]) -> None:
    few = ("--held-out", 8, "--threads", 1, "--gates", "exact")
    result = invoke("verify", engine, engine, *few)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "every gate holds"), result.output
    pruned = invoke("verify", checkpoint, engine, *few)
    assert pruned.exit_code == 1
    assert re.search(r"worst_token_shift \S+ % of token \d+ \(95 % interval up to \S+ %\) is above", pruned.stdout)
    result = invoke("verify", checkpoint, engine, "--gates", "lossi")
    assert result.exit_code == 2
    assert "no shipped set of gates of this name; did you mean 'lossy'?" in result.output


def test_workers_take_no_device_and_no_other_place(invoke: Callable[..., Result]) -> None:
    refused = invoke("verify", "a", "b", "--on", "local:2", "--device", "cpu")
    assert refused.exit_code == 2
    assert "--device, --provider-option, --require-plan: workers draw on processors; leave --on out" in refused.output
    nowhere = invoke("verify", "a", "b", "--on", "local:0")
    assert nowhere.exit_code == 2
    assert "--on: 'local:0' is no place to work; write local:N" in nowhere.output

"""Passes that train do so in several processes; everything else of a run is done once."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.passes.distill import Distill
from compress.passes.prune_ffn import PruneFfn
from compress.recipe import plan as plans
from compress.recipe import recipe
from compress.running import pipeline
from compress.running.taught import check_processes, run_together


@pytest.mark.slow
def test_two_processes_of_their_own_teach_what_one_does(tiny_model, context) -> None:
    reference = tiny_model()
    pruned = PruneFfn(ratio=0.5, multiple=1, repair=False).run(reference, context(reference)).model
    distill = Distill(steps=6, batch=8, validate_every=3)
    alone = distill.run(pruned, context(reference))
    progress: list[tuple[int, int]] = []
    report = lambda step, steps, values: progress.append((step, steps))  # noqa: E731
    said: list[str] = []
    outcome = run_together(distill, pruned, context(reference, report=report), 2, said.append)
    assert outcome.notes.validation_kl_after == pytest.approx(alone.notes.validation_kl_after, rel=1e-3)
    assert outcome.notes.steps == 6
    assert progress[-1] == (6, 6)
    assert said == []


@pytest.mark.slow
def test_a_pass_s_error_in_its_processes_is_its_line(tiny_model, context, tiny_tokens) -> None:
    few = tiny_tokens.part("train")
    with pytest.raises(InputError, match=r"^distill: the tokens have no validation pictures; split them with a share"):
        run_together(Distill(steps=6, batch=8), tiny_model(), context(tokens=few), 2, lambda text: None)


@pytest.mark.slow
def test_a_run_trains_in_processes_and_finds_what_one_did(shared_run, tmp_path: Path) -> None:
    loaded = recipe.load(shared_run.recipe)
    report = pipeline.run(loaded, Store(tmp_path / "store"), tmp_path / "run", Silent(), False, processes=2)
    assert [step.name for step in report.steps] == [step.name for step in shared_run.report.steps]
    own, theirs = (next(step for step in each.steps if step.name == "distill") for each in (report, shared_run.report))
    assert own.notes["validation_kl_after"] == pytest.approx(theirs.notes["validation_kl_after"], rel=1e-2)
    assert report.verdict.passed


def test_a_batch_that_processes_cannot_share_is_said_before_anything_is_made(shared_run, tmp_path: Path) -> None:
    loaded = recipe.load(shared_run.recipe)
    with pytest.raises(InputError, match=r"tiny\.yaml: distill: batch: \d+ cannot be shared equally by 7 processes"):
        pipeline.run(loaded, Store(tmp_path / "store"), tmp_path / "run", Silent(), True, processes=7)
    assert not (tmp_path / "run").exists()


def test_where_nothing_trains_processes_are_said_to_have_no_use(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "prune.yaml"
    path.write_text(
        f"model: {{checkpoint: {checkpoint}}}\ntokens: {{source: digits, calibration: 16, held_out: 20}}\n"
        "passes: [prune-layers: {count: 1}]\nengines: {cpu: [export: {target: onnxruntime}]}\n"
    )
    said: list[str] = []
    loaded = recipe.load(path)
    check_processes(loaded, plans.make_plan(loaded, plans.load_tokens(loaded)), 2, said.append)
    assert said == ["--on torchrun:2: no pass of this recipe trains in several processes"]

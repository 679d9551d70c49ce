"""The pipeline: artifacts made once, measured, judged, reported; what one change leaves alone."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import Result

from compress.core.listener import Listener, Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.measure import Measurement
from compress.measure.drift.cached_loop import CachedLoop
from compress.measure.drift.fidelity import Fidelity, fidelity
from compress.models.artifact import Form
from compress.models.families import reference
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.passes.quantize import Quantize
from compress.recipe import plan as plans
from compress.recipe import recipe
from compress.recipe.verdict import Breach
from compress.report.data import schema
from compress.report.data.pays import engine_pays
from compress.running import measurements as measuring
from compress.running import pipeline
from compress.running.measurements import Measuring, sampler_of
from export.graph.card import CARD, card
from export.runtime.engine import Engine
from export.runtime.sampling import Sampler

ROWS = ["reference", "prune-heads", "distill", "quantize", "cpu.export"]


def test_the_report_has_a_row_for_each_step_in_the_recipe_s_order(shared_run) -> None:
    report = shared_run.report
    assert [report.reference.name, *(step.name for step in report.steps)] == ROWS
    assert [engine.name for engine in report.engines] == ["cpu"]
    assert report.verdict.passed
    assert report.steps[0].parameters < report.reference.parameters
    assert report.steps[0].notes["removed"] == 2
    assert report.reference.fidelity is None
    assert all(step.fidelity.pictures == 20 for step in report.steps)


def test_only_engines_have_class_accuracy_low_precision_and_eager_pytorch_beside_them(shared_run) -> None:
    (engine,) = shared_run.report.engines
    assert engine.class_accuracy.pictures == 20
    assert engine.low_precision_share > 0
    assert engine.speed[0].speedup_vs_baseline > 0
    assert [row.runtime for row in shared_run.report.reference.speed] == ["onnxruntime", "torch eager"]
    assert all(step.class_accuracy is None for step in shared_run.report.steps)


def test_an_engine_s_verdict_is_against_the_reference(shared_run) -> None:
    (engine,) = shared_run.report.engines
    assert engine.pays == engine_pays(engine)


def test_report_json_validates_against_the_schema(shared_run) -> None:
    value = json.loads((shared_run.output / "report.json").read_text())
    jsonschema.validate(value, json.loads((Path(schema.__file__).parent / "schema.json").read_text()))


def test_the_published_engine_draws_and_names_what_made_it(shared_run) -> None:
    engine = Engine.load(shared_run.output / "engines" / "cpu", threads=1)
    assert engine.generate([3, 1], seed=5).shape == (2, 8, 8, 1)
    steps = engine.manifest.provenance["steps"]
    assert [step["pass"] for step in steps] == ["reference", "prune-heads", "distill", "quantize", "export"]
    assert engine.manifest.measured["fidelity"]["kl"] == shared_run.report.engines[0].fidelity.kl
    text = (engine.folder / CARD).read_text()
    assert text == card(engine.manifest)
    assert "| KL from the reference, nats per token |" in text
    assert (shared_run.output / "pictures-cpu.png").stat().st_size > 1000


def test_the_cached_loop_of_every_graph_is_held_against_one_call(shared_run) -> None:
    assert shared_run.report.steps[-1].measures["cached_loop"].max_abs_difference < 0.1
    assert "cached_loop" not in shared_run.report.steps[0].measures


def test_what_an_engine_draws_and_shows_is_measured_without_a_gate(shared_run) -> None:
    (engine,) = shared_run.report.engines
    assert engine.measures["sampler"].settings == ""
    assert engine.measures["shown"].psnr == 140
    assert engine.measures["encoding"].agreement == 1
    assert "one_file" not in engine.measures


def test_a_second_run_makes_and_measures_nothing(
    finished, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "paired", lambda *args, **kwargs: pytest.fail("timed again"))
    monkeypatch.setattr(Fidelity, "run", lambda *args: pytest.fail("compared again"))
    monkeypatch.setattr(measuring, "peak_mib", lambda *args, **kwargs: pytest.fail("weighed again"))
    monkeypatch.setattr(pipeline, "rehearse", lambda *args, **kwargs: pytest.fail("rehearsed for nothing"))
    before = (finished.output / "report.json").read_text()
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output)
    assert result.exit_code == 0, result.output
    assert ": made" not in result.stderr
    after = json.loads((finished.output / "report.json").read_text())
    assert after.pop("command").endswith(f"{finished.recipe} -o {finished.output}")
    assert after == {name: value for name, value in json.loads(before).items() if name != "command"}


@pytest.mark.slow
def test_a_changed_last_step_keeps_those_before_it_and_its_breach_exits_with_1(
    finished, invoke: Callable[..., Result]
) -> None:
    path = finished.changed(("weights: int8, activations: int8, dynamic: true}", "weights: int4}\n    gate: {kl: 0.0}"))
    result = invoke("run", path, "--store", finished.store, "-o", finished.output, "--skip-preflight")
    assert result.exit_code == 1
    assert re.search(r"^breach: quantize: kl .* is above the gate's 0 nats$", result.stdout, re.MULTILINE)
    said = dict(re.findall(r"step \d+ of \d+: (\S+): (\S+)", result.stderr))
    assert said == {**said, "prune-heads": "reused", "distill": "reused", "quantize": "made"}
    report = json.loads((finished.output / "report.json").read_text())
    assert not report["verdict"]["passed"]
    assert report["verdict"]["breaches"][0]["step"] == "quantize"
    assert report["verdict"]["breaches"][0]["measurement"] == "kl"
    assert report["verdict"]["breaches"][0]["gate"] == 0


def test_a_damaged_artifact_and_a_damaged_measurement_are_said_and_made_again(
    finished, invoke: Callable[..., Result]
) -> None:
    plan = json.loads(invoke("plan", finished.recipe, "--store", finished.store, "--json").stdout)
    key = next(step["key"] for step in plan["steps"] if step["name"] == "prune-heads")
    weights = finished.store / "artifacts" / key / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\0" if whole[-1] else whole[:-1] + b"\1")
    measurement = next(path for path in (finished.store / "measurements").iterdir() if '"kl_p99"' in path.read_text())
    measurement.write_text(measurement.read_text().replace("0.", "1.", 1))
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output, "--skip-preflight")
    assert result.exit_code == 0, result.output
    assert f"store: {key[:12]}: model.safetensors is not what was written; made again" in result.stderr
    assert f"store: measurement {measurement.stem[:12]} is damaged; measured again" in result.stderr
    assert weights.read_bytes() == whole
    assert result.stderr.count(": made ") == 1


def test_logits_that_are_no_numbers_end_the_run_in_one_line(finished, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (finished.store / "measurements").iterdir():
        path.unlink()
    nothing = np.full((20, 64, 17), np.nan, dtype=np.float32)
    monkeypatch.setattr("compress.models.image_model.ImageModel.score", lambda *args: nothing)
    monkeypatch.setattr("compress.running.measurements.Measuring.speed", lambda *args, **kwargs: ())
    with pytest.raises(InputError, match=r"tiny\.yaml: reference: its logits hold NaN or Inf, so it cannot be"):
        pipeline.run(recipe.load(finished.recipe), Store(finished.store), finished.output, Silent())


def test_an_output_that_cannot_be_written_is_found_first(
    finished, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "Run", lambda *args: pytest.fail("began to work"))
    assert refused("run", finished.recipe, "--store", finished.store, "-o", finished.recipe / "run") == (
        f"output {finished.recipe}/run: cannot be written (Not a directory); choose another with -o"
    )


def drift(difference: float):
    logits = np.random.default_rng(0).normal(size=(4, 8, 5))
    moved = logits.copy()
    moved[0, 0, 0] += difference
    return fidelity(logits, moved, np.zeros((4, 8), dtype=np.int64))


@pytest.mark.parametrize(("difference", "breaches"), [(1e-4, 0), (1.0, 1)])
def test_an_exact_pass_that_moves_logits_is_a_breach(difference: float, breaches: int) -> None:
    node = SimpleNamespace(name="fuse", gate=None, form=Form.ONNX)
    measured = Measurement("fuse", "onnx", 1, 1, fidelity_vs_previous=drift(difference), exact=True)
    found = pipeline.judge_step(node, measured)
    assert len(found) == breaches
    if found:
        assert found[0].text.startswith("fuse: logits moved from the step before by up to 1 (KL 0.")
        assert found[0].measurement == "exact"


def test_where_products_round_their_inputs_logits_may_move_by_what_that_cost() -> None:
    node = SimpleNamespace(name="fuse", gate=None, form=Form.ONNX)
    moved = drift(1.0)
    measured = Measurement("fuse", "onnx", 1, 1, fidelity_vs_previous=moved, exact=True)
    assert pipeline.judge_step(node, measured, rounding_kl=1.01 * moved.kl) == []
    assert len(pipeline.judge_step(node, measured, rounding_kl=0.99 * moved.kl)) == 1
    loop = CachedLoop(8, 0.5, (0.4, 0.6), 2.0, rounding_kl=0.6)
    measured = Measurement("export", "onnx", 1, 1, measures={"cached_loop": loop})
    assert pipeline.judge_step(node, measured) == []


def test_what_rounding_cost_is_how_far_the_step_moved_that_began_it() -> None:
    nodes = [SimpleNamespace(name="reference", source=None)]
    for name in ("prune", "quantize", "fuse"):
        nodes.append(SimpleNamespace(name=name, source=nodes[-1]))
    measuring = object.__new__(Measuring)
    measuring.side = lambda node: SimpleNamespace(rounds_inputs=node.name in ("quantize", "fuse"))
    measuring.measure = lambda node: SimpleNamespace(
        fidelity_vs_previous=SimpleNamespace(kl={"prune": 0.5, "quantize": 0.002, "fuse": 0.001}[node.name])
    )
    assert [measuring.rounding_kl(node) for node in nodes] == [0.0, 0.0, 0.002, 0.002]


def test_a_cached_loop_that_differs_is_a_breach() -> None:
    node = SimpleNamespace(name="export", gate=None, form=Form.ONNX)
    measured = Measurement("export", "onnx", 1, 1, measures={"cached_loop": CachedLoop(8, 0.5, (0.4, 0.6), 2.0)})
    (breach,) = pipeline.judge_step(node, measured)
    assert breach.text == (
        "export: logits of the cached loop differ from those of one call by up to 2 (KL 0.5 nats), "
        "but must be equal up to rounding; `compress bisect` names the layer and the operator where they part"
    )


def test_a_breach_of_speed_names_the_processor_that_the_engines_are_not_for(finished, monkeypatch) -> None:
    for place in ("export.runtime.processor", "compress.running.pipeline"):
        monkeypatch.setattr(f"{place}.products_saturate", lambda: True)
    run = object.__new__(pipeline.Run)
    breaches = [Breach("cpu", key, 1.0, 2.0, key) for key in ("speedup", "kl")]
    run.recipe = recipe.load(finished.recipe)
    assert run.explained(breaches) == breaches
    run.recipe = replace(
        run.recipe, cpu="vnni", steps=(recipe.Step("quantize", Quantize("int8", "int8", reduce_range=False), None),)
    )
    speed, drift = run.explained(breaches)
    assert speed.text.startswith("speedup (cpu: vnni: int8 engines are for x86 processors with VNNI; this one lacks it")
    assert drift == breaches[1]


def test_a_pass_that_fails_is_named_once(finished, refused: Callable[..., str]) -> None:
    path = finished.changed(("ratio: 0.25", "ratio: 0.9"))
    line = refused("run", path, "--store", finished.store, "-o", finished.output, "--skip-preflight")
    assert line.startswith(f"{path}: prune-heads: prune-heads: layer 0 has 4 heads; ratio 0.9 would leave none")


def begun(finished, path: Path, listener: Listener) -> pipeline.Run:
    """A run of a recipe that finds in the store what is there, and made nothing yet."""
    made = recipe.load(path)
    tokens = plans.load_tokens(made)
    store, plan = Store(finished.store).prepare(), plans.make_plan(made, tokens)
    reference = pipeline.load_reference(made, tokens)
    return pipeline.Run(made, store, finished.output, listener, tokens, reference, plan)


def test_what_comes_before_is_made_before_a_step_shows_its_progress(finished) -> None:
    shutil.rmtree(finished.store / "artifacts")
    open_work: list[str] = []

    class Strict(Silent):
        @contextmanager
        def work(self, title: str):
            assert not open_work, f"{title} began within {open_work[0]}"
            open_work.append(title)
            yield lambda done, total, values: None
            open_work.remove(title)

    run = begun(finished, finished.changed(("steps: 90", "steps: 2")), Strict())
    run.making.make(run.plan.trunk[-1])
    assert {row["pass"] for row in run.store.rows()} == {"prune-heads", "distill", "quantize"}


def test_engines_that_no_further_step_needs_are_closed(finished) -> None:
    run = begun(finished, finished.recipe, Silent())
    opened = {}
    for node in run.plan.nodes:
        opened[node.name] = weakref.ref(run.making.engine(node))
        run.measuring.measure(node)
    assert [name for name, engine in opened.items() if engine() is not None] == ["reference", "quantize", "cpu.export"]


DECODER = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 4, held_out: 8}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
engines:
  cpu:
    - export: {{target: onnxruntime}}
    - decoder: {{keep: [], pictures: 4}}
      gate: {{decoder_psnr: 100, decoder_ssim: 0.5}}
gate: {{decoder_psnr: 10}}
"""


@pytest.mark.slow
def test_an_image_decoder_is_measured_beside_the_reference_s_and_judged(tmp_path, tiny_model) -> None:
    torch.manual_seed(0)
    autoencoder = VqAutoencoder(VqConfig(17, 4, 8, (), (8, 8), decoder_blocks=1, norm_groups=4)).eval()
    model = tiny_model(layers=1)
    (tmp_path / "checkpoint").mkdir()
    reference.save(replace(model, tokenizer=VqTokenizer(autoencoder, model.shape.grid)), tmp_path / "checkpoint")
    path = tmp_path / "vq.yaml"
    path.write_text(DECODER.format(checkpoint=tmp_path / "checkpoint"))
    store, loaded = Store(tmp_path / "store"), recipe.load(path)
    report = pipeline.run(loaded, store, tmp_path / "run", Silent(), preflight=True)
    exported, decoder = report.steps
    assert report.reference.decoding is None
    assert (exported.decoding.equal, decoder.decoding.equal) == (True, False)
    found = decoder.decoding
    assert (found.pictures, found.reference_size_bytes) == (8, exported.decoding.size_bytes)
    assert 10 < found.psnr_worst <= found.psnr < 100
    assert found.ms_per_picture > 0
    assert report.engines[0].decoding == found
    (breach,) = report.verdict.breaches
    assert breach.text.startswith(f"cpu.decoder: decoder_psnr {found.psnr:.3g} dB (95 % interval down to ")
    assert decoder.fidelity_vs_previous.max_abs_difference == 0, "tokens are drawn as before"
    again = pipeline.run(loaded, store, tmp_path / "run", Silent())
    assert again.steps[1].decoding == found, "measured once"
    engine = Engine.load(tmp_path / "run" / "engines" / "cpu", threads=1)
    tokens = np.random.default_rng(0).integers(0, 17, (2, 64))
    with torch.no_grad():
        exact = VqTokenizer(autoencoder, (8, 8)).decoder()(torch.from_numpy(tokens))[1].clamp(0, 1).numpy()
    mean_square = np.square(engine.decode_images(tokens) / 255 - exact).mean()
    assert -10 * np.log10(mean_square) == pytest.approx(found.psnr, abs=5)


def test_grey_levels_have_the_reference_s_decoder(shared_run) -> None:
    assert shared_run.report.steps[-1].decoding.equal
    assert "## Image decoder" not in (shared_run.output / "report.md").read_text()


def test_drift_is_looked_at_from_every_side(shared_run) -> None:
    report = shared_run.report
    engine = report.engines[0]
    assert report.evidence.sound
    assert report.floor.runtime.kl < 1e-6 < report.floor.bf16.kl
    assert engine.fidelity_drawn.pictures == 20
    assert engine.sampled.pictures == 20
    assert engine.sampled.guidance == pytest.approx(report.engines[0].sampled.guidance)
    assert (engine.coupled.pictures, engine.coupled.tokens) == (20, 64)
    assert engine.coupled.edit_rate > 0, "the engine is another model"
    assert report.steps[0].fidelity.curve.axis == "position"
    assert len(report.steps[0].fidelity.curve.at) == 64
    assert 0 < report.floor.sampled.total_variation < engine.sampled.total_variation
    assert report.floor.coupled.identical > 0.9, "the reference's own export draws the same pictures"
    assert [each.name for each in report.floor.layers] == ["embedding", "blocks.0", "blocks.1"]
    assert all(0 < each.relative_error < 0.05 for each in report.floor.layers)
    assert {each.name for step in report.steps for each in step.layers} <= {each.name for each in report.floor.layers}
    assert all(step.layers for step in report.steps)
    assert engine.fidelity.nll_drift_bits == pytest.approx(engine.fidelity.nll_drift_nats / np.log(2)), (
        "a token a pixel"
    )
    assert all(row.first_tokens_ms < row.last_tokens_ms for row in engine.speed)
    assert engine.distribution.features == "SVC"
    assert engine.distribution.dimensions == 10
    assert engine.distribution.own.frechet > 0
    assert engine.distribution.floor.frechet > 0, "another seed draws another set"


def test_guidance_that_a_pass_put_inside_is_inside_of_every_step_behind_it() -> None:
    made = {"first": {}, "distill": {"guidance": 3.0}, "quantize": {}}
    making = SimpleNamespace(
        reference=SimpleNamespace(sampler=Sampler(cfg_scale=2.0, top_k=5)),
        make=lambda node: SimpleNamespace(notes=made[node.name]),
    )
    node = SimpleNamespace(name="reference", source=None)
    scales = {}
    for name in made:
        node = SimpleNamespace(name=name, source=node)
        scales[name] = sampler_of(making, node)
    assert scales["first"] == Sampler(cfg_scale=2.0, top_k=5)
    assert scales["distill"] == scales["quantize"] == Sampler(cfg_scale=3.0, top_k=5, guidance_inside=True)

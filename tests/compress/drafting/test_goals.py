"""Every goal on every kind of model: the recipe is one that `compress run` reads, and its plan is legal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from calibration.tokens import TokenSet
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.drafting.cost import foresee
from compress.drafting.facts import Facts, look
from compress.drafting.goals import GOALS, Draft, draft
from compress.drafting.pace import Pace
from compress.drafting.tokens import Pictures, pictures_for
from compress.drafting.writing import HEADER, recipe_text
from compress.models.families import Source, reference
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.models.transformer.architecture import LayerConfig
from compress.recipe import plan, recipe
from compress.recipe.preflight import check_requirements
from compress.running import pipeline
from export.runtime.sampling import Sampler

PACE = Pace(scored=0.01, taught=0.03, drawn=0.1, alone=0.5, decoded=0.01)


def saved(model: ImageModel, tokens: TokenSet, room: Path) -> tuple[Facts, Path]:
    """A model and its pictures on the disk."""
    folder = room / "model"
    folder.mkdir()
    reference.save(model, folder)
    tokens.save(room / "tokens.npz")
    return look(Source(str(folder))), room / "tokens.npz"


def written(facts: Facts, made: Draft, pictures: Pictures, room: Path) -> tuple[str, Path]:
    """The recipe of a draft."""
    file = room / f"{made.goal}.yaml"
    text = recipe_text(facts, made, pictures, foresee(facts, made, pictures, PACE), file)
    file.write_text(text)
    return text, file


@pytest.mark.parametrize("goal", GOALS)
def test_every_goal_suits_every_kind_of_model(
    goal: str, any_model: ImageModel, any_tokens: TokenSet, tmp_path: Path
) -> None:
    facts, tokens = saved(any_model, any_tokens, tmp_path)
    made = draft(goal, facts)
    pictures = pictures_for(facts, str(tokens), made.calibration, made.held_out)
    assert (pictures.calibration, pictures.held_out) == (96, 16), "as many as there are"
    text, file = written(facts, made, pictures, tmp_path)
    assert text.startswith(HEADER + "recipe.schema.json\n# " + goal)
    assert max(map(len, text.splitlines())) < 250
    loaded = recipe.load(file)
    planned = plan.make_plan(loaded, plan.load_tokens(loaded))
    check_requirements(loaded, planned, any_model)
    names = [node.name for node in planned.nodes]
    assert any("export" in name for name in names)
    assert ("rtx.build-engine" if goal == "tensorrt" else "cpu.engine") in names
    assert not any("decoder" in name for name in names) or facts.convolutional
    assert any("hoist" in name for name in names) == facts.conditioned


def left(made: Draft) -> dict[str, str]:
    """Why passes were left out."""
    return {each.name: each.why for chain in (made.trunk, *made.engines.values()) for each in chain if each.why}


def facts_of(model: ImageModel, /, **changes: Any) -> Facts:
    """Of a model in memory."""
    given = {"source": Source("x"), "path": Path("x"), "name": "x", "family": "reference"}
    return Facts(**given | {"parameters": model.parameters(), "tokenizer": model.tokenizer, "model": model} | changes)


def test_a_share_that_cannot_be_reached_is_raised_and_the_recipe_says_why(tiny_model) -> None:
    made = draft("fastest", facts_of(tiny_model(kv_heads=2)))
    (prune, *_) = made.trunk
    assert prune.settings["parameters"] == 0.8
    assert "parameters 0.5 cannot be reached" in prune.remark


def test_guidance_goes_inside_where_a_model_has_some(tiny_model) -> None:
    for scale, inside in ((1.5, True), (1.0, False)):
        made = draft("fastest", facts_of(tiny_model(kv_heads=2, sampler=Sampler(cfg_scale=scale))))
        (teach,) = (each for each in made.trunk if each.name == "distill")
        assert not teach.why
        assert ("guidance" in teach.settings) is inside
        assert ("sampled without guidance" in teach.remark) is not inside


def test_what_nothing_was_pruned_for_is_not_distilled(tiny_model) -> None:
    one = tiny_model(heads=1, kv_heads=1, ffn=8)
    made = draft("fastest", facts_of(one))
    assert "cannot be reached" in left(made)["prune-to"]
    assert left(made)["distill"] == "nothing was pruned, so there is nothing to mend"


def test_the_caches_that_are_not_shared_are_named(tiny_model) -> None:
    assert "multiple of 16" in facts_of(tiny_model()).unshared
    assert facts_of(tiny_model(head_width=16)).unshared == ""
    assert facts_of(tiny_model(positions="learned")).unshared == ""
    masked = tiny_model(order="masked", positions="learned", modulation="class", outputs=18)
    assert "no cache" in facts_of(masked).unshared
    assert "adopted" in facts_of(tiny_model(), model=None).unshared


def test_a_graph_takes_passes_of_its_own_and_none_for_tensorrt(tiny_model) -> None:
    graph = facts_of(tiny_model(), model=None, family="onnx")
    made = draft("smallest", graph)
    assert made.trunk == ()
    assert [each.name for each in made.kept] == ["fuse", "quantize-onnx", "engine"]
    assert "ONNX graph" in left(made)["quantize"]
    with pytest.raises(InputError, match=r"--goal tensorrt: x is read as an ONNX graph .* use lossless, balanced"):
        draft("tensorrt", graph)


def test_limits_of_a_decoder_without_convolutions_are_left_out(tiny_model) -> None:
    made = draft("balanced", facts_of(tiny_model()))
    assert not [key for key in made.gate if key.startswith("decoder_")]
    assert "table of colours" in made.ungated["decoder_psnr"]


@pytest.mark.parametrize("goal", ["balanced", "fastest", "smallest"])
def test_an_image_decoder_is_quantized_and_limited_whatever_model_the_shipped_recipe_is_of(tiny_model, goal) -> None:
    config = VqConfig(codes=17, code_width=4, latent_width=8, encoder_channels=(), decoder_channels=(8,), norm_groups=4)
    made = draft(goal, facts_of(tiny_model(), tokenizer=VqTokenizer(VqAutoencoder(config), (8, 8))))
    assert [each.name for each in made.kept if each.name in ("fuse", "decoder", "engine")][:2] == ["fuse", "decoder"]
    assert (made.gate["decoder_psnr"], made.gate["decoder_ssim"]) == (36, 0.97)
    assert (made.calibration, made.held_out) == (128, 100)


def test_what_a_run_costs_grows_with_the_model(tiny_model) -> None:
    costs = []
    for layers in (2, 8):
        facts = facts_of(tiny_model(layers=layers))
        made = draft("fastest", facts)
        costs.append(foresee(facts, made, Pictures("digits", 64, 100), PACE))
    small, large = costs
    assert small.engine_bytes < large.engine_bytes
    assert small.seconds[1] < large.seconds[1]
    assert small.memory_mib[0] < large.memory_mib[0]
    assert small.seconds[0] < small.seconds[1]


@pytest.mark.slow
def test_a_written_recipe_runs_to_the_end(tiny_model, tiny_tokens: TokenSet, tmp_path: Path) -> None:
    model = tiny_model(layers=2, heads=4, ffn=96)
    assert model.transformer.config.layers[0] == LayerConfig(4, 4, 96)
    facts, tokens = saved(model, tiny_tokens, tmp_path)
    made = draft("smallest", facts)
    pictures = pictures_for(facts, str(tokens), 16, 16)
    _, file = written(facts, made, pictures, tmp_path)
    value = yaml.safe_load(file.read_text())
    value["gate"] = {"kl": 50}  # random weights have no opinions that could drift
    file.write_text(yaml.safe_dump(value, sort_keys=False))
    report = pipeline.run(recipe.load(file), Store(tmp_path / "store"), tmp_path / "run", Silent())
    assert report.verdict.passed
    (engine,) = report.engines
    assert engine.size_bytes < report.reference.size_bytes

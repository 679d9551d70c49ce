"""A training of several processes goes on: with another number of them, and when one is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from torch import Tensor

from calibration.tokens import TokenSet
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.examples import examples, nll
from compress.models.transformer.model import TokenTransformer
from compress.training.checkpoint import read_checkpoint
from compress.training.dropout import dropout_of
from compress.training.loop import Loss, Schedule, fit
from compress.training.sharding import gathered, shard
from compress.training.world import ALONE, World, is_lost

SCHEDULE = Schedule(steps=12, learning_rate=0.02, warmup=2, ema=0.9, validate_every=4, patience=9)
STOP = 7
CPU = torch.device("cpu")


class Stopped(KeyboardInterrupt):
    """Ctrl-C at a step."""


@pytest.fixture
def pictures(tiny_tokens: TokenSet) -> TokenSet:
    return tiny_tokens.take(slice(0, 6))


def fresh() -> TokenTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(17, 10, (8, 8), 16, 8, (LayerConfig(2, 2, 16),) * 2)
    model = TokenTransformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    model.set_dropout(0.2)
    return model


def loss_of(model: TokenTransformer, pictures: TokenSet, world: World, stop: int = SCHEDULE.steps) -> Loss:
    whole = examples(model.config.shape, pictures)
    rows = world.rows(len(pictures))

    def loss(step: int) -> Tensor:
        if step == stop:
            raise Stopped
        with dropout_of(world, len(whole), CPU):
            return nll(model, whole.take(rows)).mean() / world.size

    return loss


def trained(
    pictures: TokenSet, checkpoint: Path, world: World = ALONE, *, stop: int = SCHEDULE.steps, sharded: bool = False
) -> dict[str, Tensor]:
    """The weights behind a training, or behind one that stops at a step."""
    model = fresh()
    if sharded:
        shard(model, world, CPU)
    try:
        fit(
            model, loss_of(model, pictures, world, stop), SCHEDULE, seed=1, validate=lambda _: 1.0,
            checkpoint=checkpoint, checkpoint_seconds=-1 if sharded else 60, world=world, sharded=sharded,
        )  # fmt: skip
    except Stopped:
        return {}
    return (gathered(model) if sharded else model).state_dict()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_what_two_processes_began_one_ends_and_the_other_way_round(
    pictures: TokenSet, tmp_path: Path, sharded: bool
) -> None:
    never_stopped = trained(pictures, tmp_path / "none.pt")
    checkpoint = tmp_path / "checkpoint.pt"
    on_ranks(lambda world: trained(pictures, checkpoint, world, stop=STOP, sharded=sharded), tmp_path)
    assert read_checkpoint(checkpoint)["state"]["step"] == STOP
    assert_equal(never_stopped, trained(pictures, checkpoint))
    checkpoint.unlink()
    trained(pictures, checkpoint, stop=STOP)
    for size in (2, 3):
        work = lambda world: trained(pictures, checkpoint, world, sharded=sharded)  # noqa: E731
        for weights in on_ranks(work, tmp_path, size):
            assert_equal(never_stopped, weights)
        checkpoint.unlink()
        trained(pictures, checkpoint, stop=STOP)


def test_when_a_process_is_gone_the_first_one_keeps_the_last_whole_step(pictures: TokenSet, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"

    def work(world: World) -> bool:
        try:
            trained(pictures, checkpoint, world, stop=STOP if world.rank else SCHEDULE.steps)
        except RuntimeError as error:
            return is_lost(error)
        return False

    assert on_ranks(work, tmp_path) == [True, False]
    assert read_checkpoint(checkpoint)["state"]["step"] == STOP
    assert_equal(trained(pictures, tmp_path / "none.pt"), trained(pictures, checkpoint))

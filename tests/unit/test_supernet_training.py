"""Training a super-network: it learns, it resumes, and it says what is wrong with a recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.mobilenetv3 import MobileNetV3, scaled
from search_spaces.space import Genes, SearchSpace
from search_spaces.supernets.calibrate import accuracy, recalibrate
from search_spaces.supernets.checkpoint import BadCheckpoint, Checkpoint, dump_checkpoint, load_checkpoint
from search_spaces.supernets.images import resize
from search_spaces.supernets.samplers import sandwich
from search_spaces.supernets.train import Diverged, Progress, Recipe, learning_rate, train

# Several threads that wait for one another on a busy machine take many times as long as one.
torch.set_num_threads(1)

SPACE = MobileNetV3(**(scaled((1, 8, 8), 4) | {"depths": [1, 2]}))


def patterns(count: int, seed: int) -> tuple[Any, Any]:
    """Noisy copies of four images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size=count)
    shapes = np.random.default_rng(99).standard_normal((4, 1, 8, 8))
    return (shapes[labels] + 0.8 * rng.standard_normal((count, 1, 8, 8))).astype(np.float32), labels


IMAGES, LABELS = patterns(96, 0)
RECIPE = Recipe(epochs=4, batch_size=16, subnets=3, crop=1, flip=True, learning_rate=0.1)


def run(recipe: Recipe = RECIPE, **options: Any) -> tuple[dict[str, torch.Tensor], list[Progress]]:
    supernet, seen = SPACE.supernet(), list[Progress]()
    train(supernet, IMAGES.__getitem__, LABELS, recipe, report=seen.append, **options)
    assert not supernet.training
    return supernet.state_dict(), seen


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[dict[str, torch.Tensor], list[Progress]]:
    return run()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_training_is_repeatable_and_leaves_the_global_state(uninterrupted: Any) -> None:
    before = torch.get_rng_state()
    assert same(run()[0], uninterrupted[0])
    assert torch.equal(torch.get_rng_state(), before)
    other = run(Recipe(epochs=4, batch_size=16, subnets=3, crop=1, flip=True, learning_rate=0.1, seed=1))
    assert not same(other[0], uninterrupted[0])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(uninterrupted: Any, epoch: int) -> None:
    """Interrupted in the middle of the epoch after the checkpoint, which went through bytes."""
    kept: list[bytes] = []

    class Interrupted(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.checkpoint is not None and progress.epoch == epoch:
            kept.append(dump_checkpoint(progress.checkpoint))
        if progress.epoch == epoch + 1 and progress.step == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(SPACE.supernet(), IMAGES.__getitem__, LABELS, RECIPE, report=stop)
    resumed, seen = run(resume=load_checkpoint(kept[0]))
    assert seen[0].epoch == epoch + 1
    assert same(resumed, uninterrupted[0])
    assert [p.loss for p in seen] == [p.loss for p in uninterrupted[1] if p.epoch > epoch]


def test_a_finished_run_is_not_trained_further(uninterrupted: Any) -> None:
    last = uninterrupted[1][-1].checkpoint
    weights, seen = run(resume=last)
    assert seen == []
    assert same(weights, uninterrupted[0])


def test_progress_is_told_every_step(uninterrupted: Any) -> None:
    weights, seen = uninterrupted
    assert [(p.epoch, p.step) for p in seen] == [(epoch, step) for epoch in range(1, 5) for step in range(1, 7)]
    assert {(p.epochs, p.steps) for p in seen} == {(4, 6)}
    assert [p.checkpoint is not None for p in seen] == [p.step == 6 for p in seen]
    assert all(np.isfinite(p.loss) and 0 <= p.accuracy <= 1 for p in seen)
    first, last = seen[5].checkpoint, seen[-1].checkpoint
    assert isinstance(first, Checkpoint)
    assert (first.epoch, last.epoch) == (1, 4)
    assert same(dict(last.weights), weights)
    assert not same(dict(first.weights), weights), "a checkpoint is a copy"
    assert set(first.momenta) == {name for name, _ in SPACE.supernet().named_parameters()}


def test_it_learns_and_small_networks_learn_too() -> None:
    images, labels = patterns(320, 1)
    supernet = SPACE.supernet()
    train(supernet, images.__getitem__, labels, Recipe(epochs=5, batch_size=20))
    held_out, answers = (torch.from_numpy(array) for array in patterns(400, 2))
    for row in np.concatenate([SPACE.extremes(), SPACE.sample(1, np.random.default_rng(0))]):
        resolution = SPACE.input_shape(row)[-1]
        network = supernet.extract(row)
        recalibrate(network, resize(torch.from_numpy(images), resolution).split(128))
        assert accuracy(network, resize(held_out, resolution), answers) > 0.7


def test_other_samplers_choose_the_networks() -> None:
    asked: list[int] = []

    def largest_alone(space: SearchSpace, count: int, rng: np.random.Generator) -> Genes:
        asked.append(count)
        return space.extremes()[1:]

    weights, _ = run(Recipe(epochs=1, batch_size=48, subnets=7), sampler=largest_alone)
    assert asked == [7, 7]
    untrained = SPACE.supernet().state_dict()
    matrix = "blocks.1.conv.depth_conv.conv.5to3_matrix"
    assert torch.equal(weights[matrix], untrained[matrix]), "no small kernel was trained"
    assert not torch.equal(run(Recipe(epochs=1, batch_size=48), sampler=sandwich)[0][matrix], untrained[matrix])


def test_the_rate_grows_and_falls() -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, learning_rate=0.4)
    rates = [learning_rate(recipe, epoch) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    assert learning_rate(Recipe(epochs=1, warmup_epochs=5), 0.5) == pytest.approx(0.15)


def test_divergence_is_reported() -> None:
    with pytest.raises(Diverged, match="epoch 1, step"):
        train(SPACE.supernet(), (IMAGES * np.float32(np.inf)).__getitem__, LABELS, RECIPE)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size: 128 is more than the 96 images"):
        train(SPACE.supernet(), IMAGES.__getitem__, LABELS, Recipe(batch_size=128))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.0),
        ("epochs", True),
        ("batch_size", 1),
        ("subnets", 1),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("momentum", 1.0),
        ("weight_decay", float("inf")),
        ("warmup_epochs", -1),
        ("label_smoothing", 1.0),
        ("crop", -1),
        ("flip", 1),
        ("seed", -1),
    ],
)
def test_bad_recipes_are_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        Recipe(**{field: value})


def test_foreign_checkpoints_are_refused(uninterrupted: Any) -> None:
    checkpoint = uninterrupted[1][-1].checkpoint
    data = dump_checkpoint(checkpoint)
    again = load_checkpoint(data)
    assert again.epoch == 4
    assert same(dict(again.weights), dict(checkpoint.weights))
    assert same(dict(again.momenta), dict(checkpoint.momenta))
    for garbage in (b"", b"no checkpoint", data[:-10]):
        with pytest.raises(BadCheckpoint):
            load_checkpoint(garbage)
    others = MobileNetV3(**scaled((1, 8, 8), 5)).supernet()
    with pytest.raises(BadCheckpoint, match="not a checkpoint of this network"):
        train(others, IMAGES.__getitem__, LABELS, RECIPE, resume=again)

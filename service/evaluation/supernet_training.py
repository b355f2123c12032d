"""Job ``train_supernet``: the training loop with progress, checkpoints and resumption; weights as an artifact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from search_spaces.networks.initialise import initialise
from search_spaces.plugins import UnknownPlugin, load
from search_spaces.space import SearchSpace
from search_spaces.supernets.checkpoint import (
    BadCheckpoint,
    Checkpoint,
    dump_checkpoint,
    dump_weights,
    load_checkpoint,
)
from search_spaces.supernets.supernet import Supernet
from search_spaces.supernets.train import Diverged, Progress, Recipe, Sampler, train
from service.core.errors import Infeasible, Invalid
from service.evaluation.architectures import space_of
from service.evaluation.datasets import Dataset
from service.evaluation.judging import calibrate, check_outputs, judge
from service.evaluation.memory import Memory, fixed
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.payloads import TrainSupernetPayload, TrainSupernetResult

_CALIBRATION = 512


def train_supernet(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Trains under ``recipe``: the fields of `search_spaces.supernets.train.Recipe`, and ``sampler``.

    Resumed from the checkpoint of any epoch, the weights are those of a run that was never interrupted. A checkpoint
    that does not fit is not used. Raises `Infeasible` if training diverges, `OutOfMemory` if there is no memory for
    the recipe's batch: a smaller one would be another recipe.
    """
    asked = parse(TrainSupernetPayload, payload, "payload")
    space = space_of(asked.space)
    dataset = toolbox.dataset(asked.dataset, asked.dataset_digest)
    recipe, sampler = read_recipe(asked.recipe, asked.seed)
    ends = space.extremes()
    if space.input_shape(ends[1])[0] != dataset.shape[0]:
        raise Invalid("space", f"reads {space.input_shape(ends[1])[0]} channels, {dataset.name} has {dataset.shape[0]}")

    supernet = initialise(space.supernet(), np.random.default_rng([asked.seed, 0])).to(toolbox.device)
    check_outputs(supernet.extract(ends[0]), space.input_shape(ends[0]), toolbox.device, dataset.classes)
    resume = _resumable(checkpoint, supernet)
    started = time.perf_counter()

    def tell(progress: Progress) -> None:
        done = (progress.epoch - 1) * progress.steps + progress.step
        note = f"epoch {progress.epoch}/{progress.epochs}: loss {progress.loss:.3f}, accuracy {progress.accuracy:.3f}"
        if progress.checkpoint is None:
            report(done, progress.epochs * progress.steps, note)
        else:
            metrics = {"loss": progress.loss, "accuracy": progress.accuracy, "learning_rate": progress.learning_rate}
            report(done, progress.epochs * progress.steps, note, metrics, dump_checkpoint(progress.checkpoint))

    split = dataset.splits["train"]
    try:
        with fixed(toolbox.device_name, f"training with {recipe.batch_size} images at once, as the recipe says"):
            train(supernet, split.images, split.labels, recipe, sampler=sampler, resume=resume, report=tell)
    except Diverged as error:
        raise Infeasible(f"diverged: {error}") from error
    except ValueError as error:
        raise _refused(error) from error
    steps = recipe.epochs * (len(split) // recipe.batch_size)
    memory = Memory(toolbox.device_name, lambda note: report(steps, steps, note))
    summary = {
        "seconds": round(time.perf_counter() - started, 3),
        "epochs": recipe.epochs,
        "resumed_at_epoch": 0 if resume is None else resume.epoch,
        "recipe": asdict(recipe),
        **_accuracies(space, supernet, dataset, toolbox, asked.seed, memory),
    }
    weights = toolbox.artifacts.put(dump_weights(supernet))
    return TrainSupernetResult(weights=weights, summary=summary).model_dump(mode="json")


def read_recipe(given: Mapping[str, Any], seed: int) -> tuple[Recipe, Sampler]:
    """The training recipe and the sampler of sub-networks. Raises `Invalid` with the field, `recipe.NAME`."""
    options = dict(given)
    name = options.pop("sampler", "sandwich")
    known = sorted({field.name for field in fields(Recipe)} - {"seed"} | {"sampler"})
    for field in options:
        if field not in known:
            hint = "; the seed is the super-network's own" if field == "seed" else ""
            raise Invalid(f"recipe.{field}", f"there is no such option, options are {', '.join(known)}{hint}")
    try:
        sampler: Sampler = load("samplers", name)
    except UnknownPlugin as error:
        raise Invalid("recipe.sampler", str(error), allowed=error.known) from error
    try:
        return Recipe(**options, seed=seed), sampler
    except ValueError as error:
        raise _refused(error) from error


def _refused(error: ValueError) -> Invalid:
    """The errors of `Recipe` and `train` begin with the field's name."""
    field, _, message = str(error).partition(": ")
    return Invalid(f"recipe.{field}", message) if message and field.isidentifier() else Invalid("recipe", str(error))


def _resumable(data: bytes | None, supernet: Supernet) -> Checkpoint | None:
    if data is None:
        return None
    try:
        checkpoint = load_checkpoint(data)
    except BadCheckpoint:
        return None
    own = {name: value.shape for name, value in supernet.state_dict().items()}
    theirs = {name: value.shape for name, value in checkpoint.weights.items()}
    return checkpoint if own == theirs else None


def _accuracies(
    space: SearchSpace, supernet: Supernet, dataset: Dataset, toolbox: Toolbox, seed: int, memory: Memory
) -> dict[str, float]:
    """Of the smallest and the largest sub-network on the validation split, batch norm recalibrated, 0 to 1."""
    found = {}
    for name, row in zip(("accuracy_smallest", "accuracy_largest"), space.extremes(), strict=True):
        network = supernet.extract(row)
        resolution = space.input_shape(row)[-1]
        calibrate(network, dataset.splits["train"], resolution, toolbox, _CALIBRATION, seed)
        validation = dataset.splits["validation"]
        found[name] = 1 - judge(network, validation, resolution, toolbox.device, dataset.classes, memory).error
    return found

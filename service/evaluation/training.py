"""Evaluator ``training``: the architecture trained from scratch under a recipe.

The loop is plain SGD with Nesterov momentum, a linear warm-up and a half cosine: what published search spaces use for
their ground truth (Dong & Yang, NAS-Bench-201, ICLR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from search_spaces.networks.initialise import initialise
from search_spaces.supernets.checkpoint import (
    BadCheckpoint,
    Checkpoint,
    dump_checkpoint,
    load_checkpoint,
    restore,
    take_checkpoint,
)
from search_spaces.supernets.images import augment, resize
from service.core.errors import Infeasible, Invalid
from service.evaluation.datasets import Split
from service.evaluation.evaluator import Candidate, Evaluation, Evaluator
from service.evaluation.judging import METRICS, check_outputs, judge, measure_network
from service.evaluation.latency import LatencyProtocol
from service.evaluation.memory import Memory, fixed
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Wire


class TrainingRecipe(Wire):
    """How a network is trained. The random order, augmentation and initial weights follow from the job's seed."""

    epochs: int = Field(default=20, ge=1, le=100_000, description="Passes over the training images at fidelity 1.")
    batch_size: int = Field(
        default=64, ge=2, le=65_536, description="Images per step; an incomplete last one is left out."
    )
    learning_rate: float = Field(default=0.1, gt=0, le=100, description="At its peak.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov's, if above 0.")
    weight_decay: float = Field(default=5e-4, ge=0, lt=1, description="Of weights with more than one dimension.")
    warmup_epochs: float = Field(default=1.0, ge=0, le=100_000, description="Epochs of linear growth of the rate.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Of the training loss.")
    crop: int = Field(default=0, ge=0, le=64, description="Pixels by which images are moved at random.")
    flip: bool = Field(default=False, description="Mirror images at random.")

    def rate(self, epoch: float, epochs: int) -> float:
        """The learning rate ``epoch`` epochs after the start: linear up, then half a cosine down to 0."""
        warmup = min(self.warmup_epochs, epochs / 2)
        if epoch < warmup:
            return self.learning_rate * epoch / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


class TrainingOptions(TrainingRecipe):
    """Options of the evaluator ``training``: the recipe, and how latency is measured."""

    latency: LatencyProtocol = Field(default_factory=LatencyProtocol, description="How latency is measured.")


@final
class TrainingEvaluator(Evaluator):
    """Trains, reporting each epoch; fidelity is the share of the epochs, and the schedule is shortened to them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse(TrainingOptions, options, "evaluator.options")

    def evaluate(
        self, candidate: Candidate, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None
    ) -> Evaluation:
        """Measures ``error``, ``loss``, ``macs``, ``params``, ``latency_ms`` of the trained network.

        Each epoch reports the training loss and the validation error. Raises `Infeasible` if the loss is not finite,
        `OutOfMemory` if there is no memory for the recipe's batch: a smaller one would be another recipe.
        """
        candidate.wanted(METRICS, toolbox.device_name)
        network = initialise(candidate.space.build(candidate.row), np.random.default_rng([candidate.seed, 0]))
        network.to(toolbox.device)
        epochs = max(1, round(candidate.fidelity * self.options.epochs))
        resume = _resumable(checkpoint, network)
        dataset, resolution = candidate.dataset, candidate.shape[-1]
        check_outputs(network, candidate.shape, toolbox.device, dataset.classes)

        done = 0.0
        memory = Memory(toolbox.device_name, lambda note: report(done, epochs, note))

        def after_step(so_far: float) -> None:
            nonlocal done
            done = so_far
            report(done, epochs)

        def after_epoch(state: Checkpoint, loss: float) -> None:
            judged = judge(network, dataset.splits["validation"], resolution, toolbox.device, dataset.classes, memory)
            metrics = {"training_loss": loss, "validation_error": judged.error}
            note = f"epoch {state.epoch}/{epochs}: loss {loss:.3f}, validation error {judged.error:.3f}"
            report(state.epoch, epochs, note, metrics, dump_checkpoint(state))

        with fixed(toolbox.device_name, f"training with {self.options.batch_size} images at once, as the recipe says"):
            train_network(
                network,
                dataset.splits["train"],
                resolution,
                self.options,
                epochs,
                candidate.seed,
                resume=resume,
                after_step=after_step,
                after_epoch=after_epoch,
            )
        done = epochs
        found = measure_network(network, candidate, toolbox, self.options.latency, memory)
        report(epochs, epochs, "measured", found.progress)
        return found


def train_network(
    network: nn.Module,
    split: Split,
    resolution: int,
    recipe: TrainingRecipe,
    epochs: int,
    seed: int,
    *,
    resume: Checkpoint | None = None,
    after_step: Callable[[float], None],
    after_epoch: Callable[[Checkpoint, float], None],
) -> None:
    """Trains in place, on the device the weights are on, and leaves the network in eval mode.

    ``after_step`` is told the epochs done so far, ``after_epoch`` the state and the mean training loss (nats).
    Each epoch draws from its own generator: a resumed run gives the weights of one that was never interrupted.
    Raises `Infeasible` if the loss is not finite, `Invalid` for fewer images than a batch.
    """
    steps = len(split) // recipe.batch_size
    if not steps:
        raise Invalid("evaluator.options.batch_size", f"{recipe.batch_size} is more than the {len(split)} images")
    device = next(network.parameters()).device
    optimiser = _optimiser(network, recipe)
    if resume is not None:
        restore(resume, network, optimiser)
    for epoch in range(0 if resume is None else resume.epoch, epochs):
        rng = np.random.default_rng([seed, 1 + epoch])
        order = rng.permutation(len(split))
        network.train()
        total = 0.0
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(epoch + (step + 0.5) / steps, epochs)
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            images = augment(torch.from_numpy(split.images(rows)).to(device), rng, crop=recipe.crop, flip=recipe.flip)
            images = resize(images, resolution).to(memory_format=torch.channels_last)
            labels = torch.from_numpy(split.labels[rows]).to(device)
            optimiser.zero_grad()
            loss = F.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
            if not math.isfinite(total):
                raise Infeasible(f"diverged: loss is {float(loss.detach())} at epoch {epoch + 1}")
            after_step(epoch + (step + 1) / steps)
        after_epoch(take_checkpoint(epoch + 1, network, optimiser), total / steps)
    network.eval()


def _optimiser(network: nn.Module, recipe: TrainingRecipe) -> torch.optim.SGD:
    parameters = list(network.parameters())
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def _resumable(data: bytes | None, network: nn.Module) -> Checkpoint | None:
    """The state to go on from; None where there is none or it is another network's: training then starts afresh."""
    if data is None:
        return None
    try:
        checkpoint = load_checkpoint(data)
    except BadCheckpoint:
        return None
    own = {name: value.shape for name, value in network.state_dict().items()}
    theirs = {name: value.shape for name, value in checkpoint.weights.items()}
    return checkpoint if own == theirs else None

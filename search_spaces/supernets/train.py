"""Training a super-network: the sandwich rule with in-place distillation (Yu & Huang, ICCV 2019).

Each step trains a few sub-networks on one batch: the first, the largest, learns from the labels; the others learn the
largest's soft outputs. Gradients add up, then the shared weights take one step of SGD.

On a CPU that other processes share, one thread trains small images many times faster than several that wait for one
another; the caller sets the number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from search_spaces.space import Genes, IntArray, SearchSpace
from search_spaces.supernets.checkpoint import Checkpoint, restore, take_checkpoint
from search_spaces.supernets.images import augment, resize
from search_spaces.supernets.samplers import sandwich
from search_spaces.supernets.supernet import Supernet

Fetch: TypeAlias = Callable[[IntArray], NDArray[np.float32]]
"""Row numbers (k,) → normalised images (k, channels, height, width)."""
Sampler: TypeAlias = Callable[[SearchSpace, int, np.random.Generator], Genes]


class Diverged(RuntimeError):
    """The loss is no longer finite; says at which epoch and step."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. Raises ValueError that names the field.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step; an incomplete last batch is left out.
        subnets: sub-networks trained per step, at least 2.
        learning_rate: at its peak, behind ``warmup_epochs`` of linear growth and before a half cosine down to 0.
        momentum: of SGD, with Nesterov's step.
        weight_decay: of weights with more than one dimension: not of biases and batch norm.
        label_smoothing: of the largest sub-network's loss.
        crop: pixels by which images are moved at random, at their own resolution.
        flip: mirror images at random.
        seed: of the order of images, their augmentation, and the sub-networks.
    """

    epochs: int = 24
    batch_size: int = 64
    subnets: int = 4
    learning_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 2.0
    label_smoothing: float = 0.1
    crop: int = 0
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in {"epochs": 1, "batch_size": 2, "subnets": 2, "crop": 0, "seed": 0}.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field}: must be an integer of at least {least}, got {value!r}")
        for field, below in {
            "learning_rate": 1e3,
            "momentum": 1.0,
            "weight_decay": 1.0,
            "warmup_epochs": 1e6,
            "label_smoothing": 1.0,
        }.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
                raise ValueError(f"{field}: must be a number from 0 to below {below:g}, got {value!r}")
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip: must be true or false, got {self.flip!r}")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training run stands: after ``step`` of ``steps`` steps of ``epoch`` (from 1) of ``epochs``.

    ``loss`` (nats) and ``accuracy`` (0 to 1) are the largest sub-network's on the training batches of this epoch so
    far. ``checkpoint`` is there at the end of each epoch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    learning_rate: float
    checkpoint: Checkpoint | None


def train(
    supernet: Supernet,
    images: Fetch,
    labels: IntArray,
    recipe: Recipe,
    *,
    sampler: Sampler = sandwich,
    resume: Checkpoint | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Trains in place, on the device the weights are on, and returns the last state.

    ``images`` fetches images by row number, 0 to n − 1; ``labels`` (n,) are their classes. ``report`` is called after
    every step; an exception it raises ends the training. Each epoch draws from its own generator, so a run resumed
    from the checkpoint of any epoch gives the weights of one that was never interrupted.

    Raises `Diverged`, `BadCheckpoint`, and ValueError for fewer images than a batch.
    """
    steps = len(labels) // recipe.batch_size
    if not steps:
        raise ValueError(f"batch_size: {recipe.batch_size} is more than the {len(labels)} images")
    space, device = supernet.space, next(supernet.parameters()).device
    decayed = [parameter for parameter in supernet.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in supernet.parameters() if parameter.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    if resume is not None:
        restore(resume, supernet, optimiser)
    checkpoint = resume
    supernet.train()
    for epoch in range(0 if resume is None else resume.epoch, recipe.epochs):
        rng = np.random.default_rng([recipe.seed, epoch])
        order = rng.permutation(len(labels))
        losses, hits = 0.0, 0
        for step in range(steps):
            rate = learning_rate(recipe, epoch + (step + 0.5) / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            batch = torch.from_numpy(images(rows)).to(device, memory_format=torch.channels_last)
            batch = augment(batch, rng, crop=recipe.crop, flip=recipe.flip)
            targets = torch.from_numpy(labels[rows]).to(device)
            optimiser.zero_grad()

            largest, *students = sampler(space, recipe.subnets, rng)
            logits = supernet(resize(batch, space.input_shape(largest)[-1]), largest)
            loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            taught = logits.detach().softmax(dim=1)
            for student in students:
                answers = supernet(resize(batch, space.input_shape(student)[-1]), student)
                F.cross_entropy(answers, taught).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

            losses += loss.item()
            hits += int((logits.argmax(dim=1) == targets).sum())
            if not isfinite(losses):
                raise Diverged(f"epoch {epoch + 1}, step {step + 1}: the loss is {loss.item()}")
            last = step + 1 == steps
            if last:
                checkpoint = take_checkpoint(epoch + 1, supernet, optimiser)
            if report is not None:
                seen = (step + 1) * recipe.batch_size
                reached = checkpoint if last else None
                report(
                    Progress(epoch + 1, recipe.epochs, step + 1, steps, losses / (step + 1), hits / seen, rate, reached)
                )
    supernet.eval()
    return checkpoint if checkpoint is not None else take_checkpoint(0, supernet, optimiser)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """At a moment of training, in epochs from the start: linear up to the peak, then half a cosine down to 0."""
    warmup = min(recipe.warmup_epochs, recipe.epochs)
    if epoch < warmup:
        return recipe.learning_rate * epoch / warmup
    return recipe.learning_rate * 0.5 * (1 + cos(pi * (epoch - warmup) / max(recipe.epochs - warmup, 1e-9)))

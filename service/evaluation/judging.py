"""Images through a network: batch-norm recalibration, error and loss, and everything that can be asked of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictors.proxies.measure import measure
from predictors.proxies.proxy import Undefined
from search_spaces.supernets.calibrate import recalibrate
from search_spaces.supernets.images import resize
from service.core.errors import Infeasible, Invalid
from service.evaluation.datasets import Split
from service.evaluation.datasets.raw import Labels
from service.evaluation.evaluator import Candidate, Evaluation
from service.evaluation.latency import LatencyProtocol, measure_latency
from service.evaluation.memory import Memory, fixed
from service.evaluation.toolbox import Toolbox

_LARGEST_BATCH, _SMALLEST_BATCH = 256, 32
_PIXELS = 2**17
"""Of one channel, in one batch."""

METRICS = ("error", "latency_ms", "loss", "macs", "params")
"""What can be asked of a network that stands alone."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """``error``: share of misclassified images, 0 to 1. ``loss``: mean cross-entropy, nats."""

    error: float
    loss: float


def usual_batch(resolution: int) -> int:
    """Images at once: 256, fewer if they are larger than 22 pixels, at least 32."""
    return max(_SMALLEST_BATCH, min(_LARGEST_BATCH, _PIXELS // resolution**2))


def batches(
    split: Split, resolution: int, device: torch.device, rows: Labels | None = None, size: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (k, c, resolution, resolution) in channels-last order, and labels (k,), on the device.

    All of the split, or its ``rows``, in order. A batch has at most ``size`` images, by default `usual_batch`. Batches
    differ by at most one in size: none is left with one image, of which batch norm has no variance.
    """
    rows = np.arange(len(split)) if rows is None else rows
    size = size or usual_batch(resolution)
    for part in np.array_split(rows, max(1, math.ceil(len(rows) / size))):
        images = torch.from_numpy(split.images(part)).to(device)
        images = resize(images, resolution).to(memory_format=torch.channels_last)
        yield images, torch.from_numpy(split.labels[part]).to(device)


def calibration_rows(count: int, images: int, seed: int) -> Labels:
    """The training images that batch norm is recalibrated with: ``images`` of ``count`` at most, the same per seed."""
    return np.random.default_rng([seed, 0]).permutation(count)[:images].astype(np.int64)


def calibrate(network: nn.Module, train: Split, resolution: int, toolbox: Toolbox, images: int, seed: int) -> None:
    """Recalibrates batch norm with ``images`` training images; does nothing for 0.

    The batches are part of the result. Raises `OutOfMemory` if there is no memory for them.
    """
    if images:
        rows = calibration_rows(len(train), images, seed)
        size = min(len(rows), usual_batch(resolution))
        with fixed(toolbox.device_name, f"recalibrating batch norm with {size} images at once, which its result needs"):
            recalibrate(network, (batch for batch, _ in batches(train, resolution, toolbox.device, rows)))


def judge(
    network: nn.Module, split: Split, resolution: int, device: torch.device, classes: int, memory: Memory
) -> Judgement:
    """Error and loss on all images of the split. Leaves the network in eval mode.

    Raises `Invalid` for a network with fewer outputs than there are classes, `Infeasible` if the loss is not finite,
    `OutOfMemory` if there is no memory for one image.
    """
    return memory.halving(
        "judging", usual_batch(resolution), lambda size: _judge(network, split, resolution, device, classes, size)
    )


def _judge(
    network: nn.Module, split: Split, resolution: int, device: torch.device, classes: int, size: int
) -> Judgement:
    network.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for images, labels in batches(split, resolution, device, size=size):
            logits = network(images)
            _check_outputs(logits, classes)
            wrong += (logits.argmax(dim=1) != labels).sum()
            loss += F.cross_entropy(logits.double(), labels, reduction="sum")
    mean = float(loss) / len(split)
    if not math.isfinite(mean):
        raise Infeasible(f"diverged: loss is {mean} on {len(split)} images")
    return Judgement(int(wrong) / len(split), mean)


def check_outputs(network: nn.Module, shape: tuple[int, ...], device: torch.device, classes: int) -> None:
    """Raises `Invalid` for a network with fewer outputs than there are classes, before it is trained."""
    network.eval()
    with torch.inference_mode():
        _check_outputs(network(torch.zeros((1, *shape), device=device)), classes)


def _check_outputs(logits: Tensor, classes: int) -> None:
    if logits.shape[1] < classes:
        raise Invalid("space", f"networks have {logits.shape[1]} outputs, the data set has {classes} classes")


def count(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> dict[str, float]:
    """``macs`` and ``params`` of the network as it stands, for one input of ``shape`` (c, h, w)."""
    image = torch.zeros((1, *shape), device=device), torch.zeros(1, dtype=torch.int64, device=device)
    found = measure(network, [image], ("macs", "params"), np.random.default_rng(0))
    return {name: value for name, value in found.items() if not isinstance(value, Undefined)}


def measure_network(
    network: nn.Module, candidate: Candidate, toolbox: Toolbox, protocol: LatencyProtocol, memory: Memory
) -> Evaluation:
    """Measures ``candidate.metrics``, and nothing that was not asked for."""
    wanted = candidate.wanted(METRICS, toolbox.device_name)
    bases, shape = set(wanted.values()), candidate.shape
    found: dict[str, float] = {}
    latency = None
    if bases & {"error", "loss"}:
        judged = judge(network, candidate.images, shape[-1], toolbox.device, candidate.dataset.classes, memory)
        found |= {"error": judged.error, "loss": judged.loss}
    if bases & {"macs", "params"}:
        found |= count(network, shape, toolbox.device)
    if "latency_ms" in bases:
        latency = measure_latency(network, shape, toolbox.device, protocol)
        found["latency_ms"] = latency.median_ms
    return Evaluation({metric: found[base] for metric, base in wanted.items()}, latency, memory.batch)

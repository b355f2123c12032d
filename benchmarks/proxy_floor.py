"""What a batch of per-image gradients costs at least: operations and bytes, and how fast this machine moves bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.proxy_references import layer_macs
from benchmarks.proxy_setup import Batch

_FLOAT = 4
_COPIED_NUMBERS = 1 << 25


@dataclass(frozen=True, slots=True)
class Floor:
    """Counts for one network and batch.

    The summed and the per-image weight gradients are the same products; sums of them are cheap beside. What is more
    is that images × weights numbers exist at all: no less than written once by the product, and read once for their
    signs. Where they are made in pieces that a cache holds, not even that reaches the memory.

    Attributes:
        step_macs: of one forward and backward pass: forward, input gradients of all layers but the first, weights'.
        weights: of convolutions and linear layers.
        gradient_bytes: of float32 gradients of all weights for all images.
        moved_bytes: those, written once and read once.
        bytes_per_s: read and written by a copy too large for the caches.
        step_seconds: of the plain step, measured.
        seconds: ``step_seconds`` and the time to move ``moved_bytes``.
        ratio: the latter to the former.
    """

    step_macs: int
    weights: int
    gradient_bytes: int
    moved_bytes: int
    bytes_per_s: float
    step_seconds: float
    seconds: float
    ratio: float


def floor(network: nn.Module, batch: Batch, step_seconds: float) -> Floor:
    """The floor of GradSign for this network and batch."""
    images = batch[0]
    calls = layer_macs(network, images[:1])
    macs = [work for _, work in calls]
    weights = sum(layer.weight.numel() for layer, _ in calls)
    gradient_bytes = len(images) * weights * _FLOAT
    moved_bytes, bytes_per_s = 2 * gradient_bytes, bandwidth(images.device)
    seconds = step_seconds + moved_bytes / bytes_per_s
    return Floor(
        step_macs=len(images) * (3 * sum(macs) - macs[0]),
        weights=weights,
        gradient_bytes=gradient_bytes,
        moved_bytes=moved_bytes,
        bytes_per_s=bytes_per_s,
        step_seconds=step_seconds,
        seconds=seconds,
        ratio=seconds / step_seconds,
    )


def bandwidth(device: torch.device, repeats: int = 5) -> float:
    """Bytes read and written in a second by a copy of 128 MiB; the best of the repeats."""
    source = torch.ones(_COPIED_NUMBERS, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(repeats + 1):
        synchronise(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * _FLOAT * _COPIED_NUMBERS / best


def synchronise(device: torch.device) -> None:
    """Waits for what the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

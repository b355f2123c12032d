"""How latency is measured.

The protocol: the extracted network in eval mode and inference mode, a batch of one, already on the device; ``warmup``
passes that do not count; then passes timed one by one until ``budget_ms`` are spent, but at least ``least`` and at
most ``most`` of them. The value is the median, the spread is the distance between the quartiles. On a GPU each pass
is timed by events, and the device is idle before it starts; clocks are read, never set. The number of threads is the
process's: it is part of the device's name, as latencies of different names are never compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from service.wire.base import Wire


class LatencyProtocol(Wire):
    """Options under ``latency``."""

    warmup: int = Field(default=2, ge=1, le=1000, description="Passes before the first timed one.")
    least: int = Field(default=5, ge=3, le=10_000, description="Timed passes, at least.")
    most: int = Field(default=50, ge=3, le=10_000, description="Timed passes, at most.")
    budget_ms: float = Field(default=20.0, ge=0, le=60_000, description="Time after which no further pass starts, ms.")

    @model_validator(mode="after")
    def _ordered(self) -> LatencyProtocol:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self


@dataclass(frozen=True, slots=True)
class Latency:
    """``median_ms`` and ``spread_ms`` (third minus first quartile) of ``repeats`` passes, milliseconds."""

    median_ms: float
    spread_ms: float
    repeats: int


def measure_latency(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, protocol: LatencyProtocol | None = None
) -> Latency:
    """Times ``network``, which lies on ``device`` and is left in eval mode, on one input of ``shape`` (c, h, w)."""
    protocol = protocol or LatencyProtocol()
    network.eval()
    image = torch.zeros((1, *shape), device=device)
    clock = _cuda_pass if device.type == "cuda" else _cpu_pass
    with torch.inference_mode():
        for _ in range(protocol.warmup):
            network(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return summarise(lambda: clock(network, image), protocol)


def summarise(timed_ms: Callable[[], float], protocol: LatencyProtocol) -> Latency:
    """Calls ``timed_ms``, which returns milliseconds, as often as the protocol says."""
    times: list[float] = []
    while len(times) < protocol.least or (len(times) < protocol.most and sum(times) < protocol.budget_ms):
        times.append(timed_ms())
    first, median, third = np.percentile(times, [25, 50, 75])
    return Latency(float(median), float(third - first), len(times))


def _cpu_pass(network: nn.Module, image: torch.Tensor) -> float:
    start = time.perf_counter_ns()
    network(image)
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_pass(network: nn.Module, image: torch.Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record(torch.cuda.current_stream(image.device))
    network(image)
    end.record(torch.cuda.current_stream(image.device))
    end.synchronize()
    return float(start.elapsed_time(end))

"""How latency is measured; docs/latency.md states the protocol for those who compare with it.

The network as it would be used, alone on the device, in eval mode and inference mode, fed a batch of one that is on
the device already. A round is ``warmup`` passes that do not count, then passes timed one by one until ``budget_ms``
are spent, but at least ``least`` and at most ``most`` of them. Its value is the median, its spread the distance
between the quartiles. A round that is too noisy is done again, at most ``rounds`` in all, and the least noisy one
counts. On a GPU each pass is timed by events, and the device is idle before it starts; clocks are read, never set.
The number of threads is the process's: it is part of the device's name, as latencies of different names are never
compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
import torch
from pydantic import Field, model_validator
from torch import nn

from service.core.latency import DEFAULT
from service.evaluation.clocks import read_clocks
from service.wire.base import Json, Wire

_TICK_MS = 1e-6
"""No pass is shorter: what clocks resolve."""

log = structlog.get_logger("frontier.evaluation")


class LatencyProtocol(Wire):
    """Options under ``latency``."""

    warmup: int = Field(default=DEFAULT.warmup, ge=1, le=1000, description="Passes before the first timed one.")
    least: int = Field(default=DEFAULT.least, ge=3, le=10_000, description="Timed passes, at least.")
    most: int = Field(default=DEFAULT.most, ge=3, le=10_000, description="Timed passes, at most.")
    budget_ms: float = Field(
        default=DEFAULT.budget_ms, ge=0, le=60_000, description="Time after which no further pass starts, ms."
    )
    noise: float = Field(
        default=DEFAULT.noise, gt=0, le=100, description="Spread over median from which a round is done again."
    )
    rounds: int = Field(default=DEFAULT.rounds, ge=1, le=100, description="Rounds, at most.")

    @model_validator(mode="after")
    def _ordered(self) -> LatencyProtocol:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self


@dataclass(frozen=True, slots=True)
class Latency:
    """A round of ``repeats`` passes, the least noisy of ``rounds``.

    Attributes:
        median_ms: the value, milliseconds.
        spread_ms: third minus first quartile, milliseconds.
        noise: the larger of the spread and the distance between the medians of the first and the second half of the
            passes, over the median.
        noisy: the noise is above the protocol's limit, in all rounds.
        clocks: ``before`` the first and ``after`` the last round, what `read_clocks` read.
    """

    median_ms: float
    spread_ms: float
    repeats: int
    noise: float
    rounds: int = 1
    noisy: bool = False
    clocks: Json = field(default_factory=dict)


def measure_latency(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, protocol: LatencyProtocol | None = None
) -> Latency:
    """Times ``network``, which lies on ``device`` and is left in eval mode, on one input of ``shape`` (c, h, w)."""
    protocol = protocol or LatencyProtocol()
    network.eval()
    image = torch.zeros((1, *shape), device=device)
    clock = _cuda_pass if device.type == "cuda" else _cpu_pass

    def warm_up() -> None:
        for _ in range(protocol.warmup):
            network(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    before = read_clocks(device)
    with torch.inference_mode():
        found = summarise(lambda: clock(network, image), protocol, warm_up)
    found = replace(found, clocks={"before": before, "after": read_clocks(device)})
    if found.noisy:
        log.warning(
            "noisy latency",
            median_ms=round(found.median_ms, 4),
            noise=round(found.noise, 3),
            limit=protocol.noise,
            rounds=found.rounds,
            clocks=found.clocks,
        )
    return found


def summarise(
    timed_ms: Callable[[], float], protocol: LatencyProtocol, warm_up: Callable[[], None] = lambda: None
) -> Latency:
    """Rounds of ``timed_ms``, which returns the milliseconds of one pass, as the protocol says."""
    rounds: list[Latency] = []
    while len(rounds) < protocol.rounds and all(each.noise > protocol.noise for each in rounds):
        warm_up()
        rounds.append(_round(timed_ms, protocol))
    best = min(rounds, key=lambda each: each.noise)
    return replace(best, rounds=len(rounds), noisy=best.noise > protocol.noise)


def _round(timed_ms: Callable[[], float], protocol: LatencyProtocol) -> Latency:
    times: list[float] = []
    while len(times) < protocol.least or (len(times) < protocol.most and sum(times) < protocol.budget_ms):
        times.append(timed_ms())
    first, median, third = np.percentile(times, [25, 50, 75])
    half = len(times) // 2
    drift = abs(np.median(times[:half]) - np.median(times[-half:]))
    noise = max(third - first, drift) / max(median, _TICK_MS)
    return Latency(float(median), float(third - first), len(times), float(noise))


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

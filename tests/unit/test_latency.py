"""The protocol of latency, with a clock that is told what to say."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from service.evaluation.latency import LatencyProtocol, measure_latency, summarise


def ticking(*times: float) -> tuple[list[float], itertools.cycle[float]]:
    return list(times), itertools.cycle(times)


def test_the_value_is_the_median_and_the_spread_that_of_the_quartiles() -> None:
    times, clock = ticking(1.0, 2.0, 3.0, 4.0, 100.0)
    found = summarise(lambda: next(clock), LatencyProtocol(least=5, most=5))
    assert (found.median_ms, found.spread_ms, found.repeats) == (3.0, 2.0, len(times))


@pytest.mark.parametrize(
    ("pass_ms", "repeats"),
    [(1.0, 20), (0.1, 50), (10.0, 5), (100.0, 5)],
)
def test_it_stops_when_the_budget_is_spent(pass_ms: float, repeats: int) -> None:
    protocol = LatencyProtocol(least=5, most=50, budget_ms=20.0)
    assert summarise(lambda: pass_ms, protocol).repeats == repeats


def test_a_protocol_must_make_sense() -> None:
    for wrong in ({"least": 10, "most": 5}, {"warmup": 0}, {"least": 1}, {"budget_ms": -1}, {"repeats": 3}):
        with pytest.raises(ValidationError):
            LatencyProtocol.model_validate(wrong)


class Spy(nn.Module):
    """Remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.calls: list[tuple[torch.Size, bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((images.shape, self.training, torch.is_inference_mode_enabled()))
        out: torch.Tensor = self.linear(images.flatten(1))
        return out


def test_the_network_runs_one_image_in_eval_and_inference_mode() -> None:
    spy = Spy().train()
    found = measure_latency(spy, (1, 2, 2), torch.device("cpu"), LatencyProtocol(warmup=3, least=4, most=4, rounds=1))
    assert len(spy.calls) == 3 + 4
    assert set(spy.calls) == {(torch.Size([1, 1, 2, 2]), False, True)}
    assert found.repeats == 4
    assert found.median_ms > 0

"""The protocol of latency, with a clock that is told what to say; the state of clocks, as kernel and driver tell it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from structlog.testing import capture_logs
from torch import nn

from service.core.latency import DEFAULT
from service.core.metrics import Circumstances, context_digest
from service.evaluation import latency
from service.evaluation.clocks import gpu_clocks, processor_clocks, read_clocks
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


# ---------------------------------------------------------------------- noise


QUIET, UNEASY, WILD = (1.0, 1.0, 1.1, 1.1), (1.0, 1.2, 1.4, 1.6), (1.0, 3.0, 5.0, 7.0)


def scripted(*rounds: Sequence[float]) -> Iterator[float]:
    """A clock that says these times, and then nothing more."""
    return iter([time for each in rounds for time in each])


def protocol(passes: int = 4, **given: Any) -> LatencyProtocol:
    return LatencyProtocol(least=passes, most=passes, **given)


def test_a_quiet_round_is_enough() -> None:
    clock = scripted(QUIET, WILD)
    found = summarise(lambda: next(clock), protocol())
    assert (found.rounds, found.noisy) == (1, False)
    assert found.noise == pytest.approx(0.1 / 1.05)
    assert len(list(clock)) == len(WILD)


def test_a_noisy_round_is_measured_again_and_the_quiet_one_counts() -> None:
    clock = scripted(WILD, UNEASY, QUIET, WILD)
    found = summarise(lambda: next(clock), protocol())
    assert (found.median_ms, found.rounds, found.noisy) == (pytest.approx(1.05), 3, False)


def test_what_stays_noisy_is_kept_and_said_to_be_noisy() -> None:
    clock = scripted(WILD, UNEASY, WILD, QUIET)
    found = summarise(lambda: next(clock), protocol(rounds=3))
    assert (found.median_ms, found.rounds, found.noisy) == (pytest.approx(1.3), 3, True)
    assert found.spread_ms == pytest.approx(0.3)
    assert len(list(clock)) == len(QUIET), "there was a round too many"


def test_a_device_that_slows_down_is_noisy_though_its_quartiles_are_close() -> None:
    drifting = [1.0] * 15 + [1.3] * 5
    found = summarise(iter(drifting).__next__, protocol(20, noise=0.1, rounds=1))
    assert found.spread_ms / found.median_ms < 0.1
    assert found.noise == pytest.approx(0.15)
    assert found.noisy
    mixed = [1.0, 1.0, 1.0, 1.3] * 5
    assert not summarise(iter(mixed).__next__, protocol(20, noise=0.1, rounds=1)).noisy, "the same times, no drift"


def test_each_round_begins_with_its_warm_up() -> None:
    steps: list[str] = []
    clock = scripted(WILD, QUIET)

    def timed() -> float:
        steps.append("pass")
        return next(clock)

    summarise(timed, protocol(), lambda: steps.append("warm"))
    assert steps == ["warm", *["pass"] * 4] * 2


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    assert summarise(lambda: 0.0, protocol()).noise == 0.0


def test_noise_is_logged_with_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.cycle(WILD)
    monkeypatch.setattr(latency, "_cpu_pass", lambda network, image: next(clock))
    with capture_logs() as logs:
        found = measure_latency(Spy(), (1, 2, 2), torch.device("cpu"), protocol(rounds=2))
    assert sorted(found.clocks) == ["after", "before"]
    (said,) = logs
    assert (said["event"], said["log_level"], said["rounds"]) == ("noisy latency", "warning", 2)
    assert said["clocks"] == found.clocks


# ---------------------------------------------------------------------- what a latency depends on


HERE = Circumstances(
    dataset="d", split="validation", evaluator="supernet", options={}, weights=None, seed=0, device="cpu-a"
)


def digest(**options: Any) -> str:
    return context_digest(replace(HERE, options=options).context("latency_ms"))


def test_the_protocol_and_the_context_agree_on_the_defaults() -> None:
    assert LatencyProtocol().model_dump() == asdict(DEFAULT)


def test_the_defaults_leave_the_context_as_it_always_was() -> None:
    assert digest() == "f80a53a8729d4f442168affe346a14ab"
    assert digest() == digest(latency={}) == digest(latency={"most": 50, "budget_ms": 20}) == digest(epochs=3)
    assert digest() == digest(latency=None) == digest(latency="fast"), "no evaluator runs with these"


def test_another_protocol_is_another_context() -> None:
    other = digest(latency={"most": 100})
    assert other != digest()
    assert other == digest(latency={"most": 100.0, "warmup": 2})
    assert len({other, digest(latency={"most": 99}), digest(latency={"warmup": 100}), digest()}) == 4
    named = replace(HERE, options={"latency": {"most": 100}})
    assert named.context("latency_ms@cpu-a") == {"device": "cpu-a", "protocol": {"most": 100.0}}
    assert named.context("energy@cpu-a") == {"device": "cpu-a"}


# ---------------------------------------------------------------------- clocks


def test_processors_are_read_where_the_kernel_tells(tmp_path: Path) -> None:
    for number, (governor, current) in enumerate((("powersave", 1_200_000), ("performance", 3_000_000))):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_cur_freq").write_text(f"{current}\n")
        (folder / "cpuinfo_max_freq").write_text("3500000\n")
    both = processor_clocks([0, 1], tmp_path)
    both.pop("load")
    assert both == {"governor": "performance+powersave", "cpu_mhz": 2100, "cpu_max_mhz": 3500}
    assert processor_clocks([1], tmp_path)["cpu_mhz"] == 3000


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert set(processor_clocks([0, 1], tmp_path)) <= {"load"}
    folder = tmp_path / "cpu0" / "cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("<unknown>\n")
    assert set(processor_clocks([0], tmp_path)) <= {"load"}
    assert isinstance(read_clocks(torch.device("cpu")), dict)


class Driver:
    """Stands in for NVML, which needs a GPU: functions return 0 and write behind their last argument, or an error."""

    def __init__(self, **answers: int) -> None:
        self._answers = answers

    def __getattr__(self, function: str) -> Any:
        def answer(handle: Any, *given: Any) -> int:
            if function == "nvmlDeviceGetHandleByUUID":
                return 0 if handle == b"GPU-abc" else 6
            name = "-".join([function.removeprefix("nvmlDeviceGet"), *map(str, given[:-1])])
            if name not in self._answers:
                return 3  # not supported
            given[-1]._obj.value = self._answers[name]
            return 0

        if function == "nvmlDeviceGetPowerUsage":
            raise AttributeError(function)  # an old driver
        return answer


def test_gpus_are_read_through_their_driver() -> None:
    told = {"ClockInfo-1": 1410, "MaxClockInfo-1": 1980, "PerformanceState": 0, "CurrentClocksThrottleReasons": 0x24}
    assert gpu_clocks(Driver(**told), "abc") == {
        "gpu_sm_mhz": 1410,
        "gpu_sm_max_mhz": 1980,
        "gpu_power_state": 0,
        "gpu_slowed_by": ["power cap", "software thermal slowdown"],
    }
    assert gpu_clocks(Driver(), "abc") == {}
    assert gpu_clocks(Driver(**told), "unknown") == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_and_its_clocks_are_read() -> None:
    device = torch.device("cuda")
    found = measure_latency(nn.Linear(8, 8).to(device), (1, 2, 8), device, protocol())
    assert found.median_ms > 0
    assert 0 < found.clocks["after"]["gpu_sm_mhz"] <= found.clocks["after"]["gpu_sm_max_mhz"]

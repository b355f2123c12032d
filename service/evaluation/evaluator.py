"""The contract of an evaluator: one architecture in, values of metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.space import Genes, SearchSpace
from service.core.errors import Invalid
from service.evaluation.datasets import Dataset, Split
from service.evaluation.latency import Latency
from service.evaluation.toolbox import Report, Toolbox


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to be measured.

    Attributes:
        space, row: the architecture, (d,) genes.
        dataset, split: the images to be judged on, ``validation`` or ``test``.
        weights: digest of super-network weights, for evaluators that use them.
        metrics: names, ``name`` or ``name@device``.
        fidelity: in (0, 1], 1 is the full evaluation.
        seed: of everything random.
    """

    space: SearchSpace
    row: Genes
    dataset: Dataset
    split: str
    weights: str | None
    metrics: tuple[str, ...]
    fidelity: float
    seed: int

    def __post_init__(self) -> None:
        if self.split not in self.dataset.splits:
            raise Invalid("split", f"is {self.split!r}, must be one of {', '.join(self.dataset.splits)}")
        if not 0 < self.fidelity <= 1:
            raise Invalid("fidelity", f"must be above 0 and at most 1, got {self.fidelity}")
        if not self.metrics:
            raise Invalid("metrics", "must name at least one metric")
        shape, images = self.shape, self.dataset.shape
        if len(shape) != 3 or shape[0] != images[0]:
            raise Invalid("space", f"reads inputs of {shape}, images of {self.dataset.name} are {images}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) that the network reads."""
        return self.space.input_shape(self.row)

    @property
    def images(self) -> Split:
        """The split to be judged on."""
        return self.dataset.splits[self.split]

    def wanted(self, measurable: Iterable[str], device_name: str) -> dict[str, str]:
        """Name as asked for → base name. Raises `Invalid` for what the evaluator, or this device, cannot measure."""
        known, found = sorted(measurable), {}
        for metric in self.metrics:
            base, _, device = metric.partition("@")
            if base not in known:
                raise Invalid("metrics", f"{metric} cannot be measured by this evaluator, it measures {known}")
            if device and device != device_name:
                raise Invalid("metrics", f"{metric} is asked for, this device is {device_name}")
            found[metric] = base
        return found


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of measuring a candidate.

    Attributes:
        metrics: values of exactly ``candidate.metrics``.
        latency: how the latency among them was measured.
        batch: images at once, if the device had no memory for as many as usual.
    """

    metrics: Mapping[str, float]
    latency: Latency | None = None
    batch: int | None = None

    @property
    def spreads(self) -> dict[str, float]:
        """Metric → spread in its unit, of those that are medians."""
        if self.latency is None:
            return {}
        return {name: self.latency.spread_ms for name in self.metrics if name.partition("@")[0] == "latency_ms"}

    @property
    def progress(self) -> dict[str, float]:
        """The values for the job's progress, with what the latency rests on beside them."""
        if self.latency is None:
            return dict(self.metrics)
        return {
            **self.metrics,
            "latency_spread_ms": self.latency.spread_ms,
            "latency_repeats": float(self.latency.repeats),
            "latency_rounds": float(self.latency.rounds),
        }


class Evaluator(ABC):
    """Measures architectures. Built once per job, from options."""

    @abstractmethod
    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises `Invalid` with the field, `evaluator.options.NAME`."""

    @abstractmethod
    def evaluate(
        self, candidate: Candidate, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None
    ) -> Evaluation:
        """Measures a candidate. Metrics of scope TASK are equal for equal candidates, but for rounding.

        ``checkpoint`` is what an earlier attempt reported last. Raises `Invalid`, `Infeasible`, `OutOfMemory`, and
        what ``report`` raises; `service.evaluation.memory` is there for devices with little memory.
        """

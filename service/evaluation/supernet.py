"""Evaluator ``supernet``: a sub-network with the super-network's weights, taken out and measured on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from pydantic import Field
from torch import nn

from service.core.errors import Invalid
from service.evaluation.evaluator import Candidate, Evaluation, Evaluator
from service.evaluation.judging import METRICS, calibrate, measure_network
from service.evaluation.latency import LatencyProtocol
from service.evaluation.memory import Memory
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Wire


class SupernetOptions(Wire):
    """Options of the evaluator ``supernet``."""

    recalibration_images: int = Field(
        default=512, ge=0, le=1_000_000, description="Training images that batch norm is recalibrated with; 0: not."
    )
    latency: LatencyProtocol = Field(default_factory=LatencyProtocol, description="How latency is measured.")


@final
class SupernetEvaluator(Evaluator):
    """Select, extract, recalibrate batch norm, measure. The super-network is loaded once per worker."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse(SupernetOptions, options, "evaluator.options")
        if self.options.recalibration_images == 1:
            raise Invalid(
                "evaluator.options.recalibration_images", "must be 0 or at least 2: one image has no variance"
            )

    def evaluate(
        self, candidate: Candidate, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None
    ) -> Evaluation:
        """Measures ``error``, ``loss``, ``macs``, ``params``, ``latency_ms``; fidelity is not used."""
        candidate.wanted(METRICS, toolbox.device_name)
        report(0, 2, "extracting")
        network = self.extract(candidate, toolbox)
        report(1, 2, "measuring")
        memory = Memory(toolbox.device_name, lambda note: report(1, 2, note))
        found = measure_network(network, candidate, toolbox, self.options.latency, memory)
        report(2, 2, "measured", found.progress)
        return found

    def extract(self, candidate: Candidate, toolbox: Toolbox) -> nn.Module:
        """The sub-network with recalibrated batch norm, on the device, in eval mode: what is measured and exported."""
        if candidate.weights is None:
            raise Invalid("weights", "evaluator supernet needs the weights of a super-network")
        supernet = toolbox.supernet(candidate.space, candidate.weights)
        network = supernet.extract(candidate.row)
        calibrate(
            network,
            candidate.dataset.splits["train"],
            candidate.shape[-1],
            toolbox,
            self.options.recalibration_images,
            candidate.seed,
        )
        return network.eval()

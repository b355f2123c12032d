"""Job ``score``: zero-cost proxies of untrained networks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn

from predictors.proxies.measure import measure
from predictors.proxies.proxy import Undefined
from search_spaces.networks.initialise import initialise
from search_spaces.plugins import names
from search_spaces.space import Genes, SearchSpace
from search_spaces.supernets.images import resize
from service.core.errors import Invalid
from service.core.scoring import Scoring
from service.evaluation.architectures import rows_of, space_of
from service.evaluation.datasets import Dataset
from service.evaluation.memory import Memory
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.payloads import ScorePayload, ScoreResult

Batches: TypeAlias = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one architecture: means over the initialisations with their standard deviations, or why there is none."""

    values: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)


def score(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Scores each architecture with weights drawn from the seed, on minibatches of training images.

    The minibatches, and the generator of weights, are the same for every architecture: scores of separate jobs with
    equal seeds can be compared. A proxy that is not defined for a network, or for one of its initialisations, says why.
    Where memory does not suffice the minibatch passes in parts; raises `OutOfMemory` if there is none for one image,
    `Invalid` for proxies or images that there are not, and for networks with fewer outputs than there are classes.
    """
    asked = parse(ScorePayload, payload, "payload")
    space = space_of(asked.space)
    rows = rows_of(space, asked.genes)
    scoring = Scoring(asked.batch, asked.minibatches, asked.repeats)
    scorer = Scorer(toolbox, toolbox.dataset(asked.dataset, asked.dataset_digest), asked.proxies, scoring, asked.seed)
    found: list[Scores] = []
    seconds: list[float] = []
    memory = Memory(toolbox.device_name, lambda note: report(len(seconds), len(rows), note))
    for index, row in enumerate(rows):
        report(index, len(rows), f"scoring {', '.join(asked.proxies)}")
        started = time.perf_counter()
        found.append(scorer.score(space, row, memory))
        seconds.append(time.perf_counter() - started)
    report(len(rows), len(rows), "scored")
    result = ScoreResult(
        scores=[each.values for each in found],
        undefined=[each.undefined for each in found],
        seconds=seconds,
        spreads=[each.spreads for each in found] if scoring.repeats > 1 else [],
        batch=memory.batch,
    )
    return result.model_dump(mode="json", exclude_none=True)


@final
class Scorer:
    """Scores networks of one data set's classes by some proxies, in one way."""

    def __init__(self, toolbox: Toolbox, dataset: Dataset, proxies: Sequence[str], scoring: Scoring, seed: int) -> None:
        """Raises `Invalid` for unknown proxies, and for more images than there are."""
        unknown = sorted(set(proxies) - set(names("proxies")))
        if unknown:
            raise Invalid("proxies", f"there are no {unknown}, there are {names('proxies')}")
        train, wanted = dataset.splits["train"], scoring.images(proxies)
        if not 1 <= wanted <= len(train):
            raise Invalid("batch", f"must be 1 to {len(train)}, the number of training images, got {wanted}")
        chosen = np.random.default_rng([seed, 0]).permutation(len(train))[:wanted]
        self._images, self._labels = torch.from_numpy(train.images(chosen)), torch.from_numpy(train.labels[chosen])
        self._proxies, self._scoring, self._seed = tuple(proxies), scoring, seed
        self._device, self._classes, self._checked = toolbox.device, dataset.classes, False

    def score(self, space: SearchSpace, row: Genes, memory: Memory) -> Scores:
        """The scores of one architecture (d,): the mean over initialisations of what `measure` gives."""
        network = space.build(row)
        batches = self._batches(space.input_shape(row)[-1])
        drawn: list[Mapping[str, float | Undefined]] = []
        for repeat in range(self._scoring.repeats):
            # The first one draws as if it were the only one.
            place = [repeat] if repeat else []
            network = initialise(network, np.random.default_rng([self._seed, 1, *place])).to(self._device)
            passed = partial(self._pass, network, batches, place)
            drawn.append(memory.halving("scoring", self._scoring.batch, passed))
        return _means(self._proxies, drawn)

    def _batches(self, resolution: int) -> Batches:
        size = self._scoring.batch
        return [
            (resize(images, resolution).to(self._device), labels.to(self._device))
            for images, labels in zip(torch.split(self._images, size), torch.split(self._labels, size), strict=True)
        ]

    def _pass(
        self, network: nn.Module, batches: Batches, place: list[int], at_once: int
    ) -> Mapping[str, float | Undefined]:
        if not self._checked:
            self._check_outputs(network, batches[0][0][: min(2, at_once)])
            self._checked = True
        rng = np.random.default_rng([self._seed, 2, *place])
        return measure(network, batches, self._proxies, rng, at_once=at_once)

    def _check_outputs(self, network: nn.Module, images: Tensor) -> None:
        """Labels are indices of outputs."""
        training = network.training
        with torch.inference_mode():
            outputs = network.eval()(images)
        network.train(training)
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] < self._classes:
            raise Invalid(
                "space", f"networks have {outputs.shape[1]} outputs, the data set has {self._classes} classes"
            )


def _means(proxies: Sequence[str], drawn: Sequence[Mapping[str, float | Undefined]]) -> Scores:
    found = Scores()
    for name in proxies:
        scores = [each[name] for each in drawn]
        reasons = [(i, each.reason) for i, each in enumerate(scores, 1) if isinstance(each, Undefined)]
        if reasons:
            of = f"initialisation {reasons[0][0]} of {len(drawn)}: " if len(drawn) > 1 else ""
            found.undefined[name] = of + reasons[0][1]
            continue
        values = np.array(scores, dtype=np.float64)
        found.values[name] = float(values.mean())
        if len(drawn) > 1:
            found.spreads[name] = float(values.std(ddof=1))
    return found

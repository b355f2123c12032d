"""Job ``score``: zero-cost proxies of untrained networks."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from predictors.proxies.measure import measure
from predictors.proxies.proxy import Undefined
from search_spaces.networks.initialise import initialise
from search_spaces.plugins import names
from search_spaces.supernets.images import resize
from service.core.errors import Invalid
from service.evaluation.architectures import rows_of, space_of
from service.evaluation.memory import Memory
from service.evaluation.options import parse
from service.evaluation.toolbox import Report, Toolbox
from service.wire.base import Json
from service.wire.payloads import ScorePayload, ScoreResult


def score(payload: Json, toolbox: Toolbox, report: Report, checkpoint: bytes | None = None) -> Json:
    """Scores each architecture with weights drawn from the seed, on one minibatch of training images.

    The minibatch, and the generator of weights, are the same for every architecture: scores of separate jobs with
    equal seeds can be compared. A proxy that is not defined for a network says why. Where memory does not suffice the
    minibatch passes in parts; raises `OutOfMemory` if there is none for one image.
    """
    asked = parse(ScorePayload, payload, "payload")
    space = space_of(asked.space)
    rows = rows_of(space, asked.genes)
    unknown = sorted(set(asked.proxies) - set(names("proxies")))
    if unknown:
        raise Invalid("proxies", f"there are no {unknown}, there are {names('proxies')}")
    train = toolbox.dataset(asked.dataset, asked.dataset_digest).splits["train"]
    if not 1 <= asked.batch <= len(train):
        raise Invalid("batch", f"must be 1 to {len(train)}, the number of training images, got {asked.batch}")
    chosen = np.random.default_rng([asked.seed, 0]).permutation(len(train))[: asked.batch]
    images, labels = torch.from_numpy(train.images(chosen)), torch.from_numpy(train.labels[chosen])

    scores: list[dict[str, float]] = []
    undefined: list[dict[str, str]] = []
    seconds: list[float] = []
    memory = Memory(toolbox.device_name, lambda note: report(len(seconds), len(rows), note))
    for index, row in enumerate(rows):
        report(index, len(rows), f"scoring {', '.join(asked.proxies)}")
        started = time.perf_counter()
        network = initialise(space.build(row), np.random.default_rng([asked.seed, 1])).to(toolbox.device)
        batch = resize(images, space.input_shape(row)[-1]).to(toolbox.device), labels.to(toolbox.device)
        passed = partial(_pass, network, batch, asked)
        found = memory.halving("scoring", asked.batch, passed)
        reasons = {name: value.reason for name, value in found.items() if isinstance(value, Undefined)}
        values = {name: float(value) for name, value in found.items() if not isinstance(value, Undefined)}
        scores.append(values)
        undefined.append(reasons)
        seconds.append(time.perf_counter() - started)
    report(len(rows), len(rows), "scored")
    result = ScoreResult(scores=scores, undefined=undefined, seconds=seconds, batch=memory.batch)
    return result.model_dump(mode="json", exclude_none=True)


def _pass(
    network: nn.Module, batch: tuple[Tensor, Tensor], asked: ScorePayload, at_once: int
) -> dict[str, float | Undefined]:
    return measure(network, [batch], asked.proxies, np.random.default_rng([asked.seed, 2]), at_once=at_once)

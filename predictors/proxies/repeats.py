"""The scores of one architecture over several initialisations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from predictors.proxies.measure import measure
from predictors.proxies.proxy import Undefined

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Repeated:
    """A proxy's scores, one per initialisation.

    Attributes:
        mean: of the scores.
        low, high: bounds of the confidence interval of the expected score (Student's, scores taken as normal).
        scores: in the order of the seeds.
    """

    mean: float
    low: float
    high: float
    scores: tuple[float, ...]


def measure_repeatedly(
    build: Callable[[np.random.Generator], nn.Module],
    batches: Sequence[tuple[Tensor, Tensor]],
    names: Iterable[str],
    seeds: Sequence[int],
    *,
    confidence: float = 0.95,
    at_once: int | None = None,
) -> dict[str, Repeated | Undefined]:
    """Each proxy over networks that ``build`` initialises, one per seed, on the same minibatches.

    Seed s gives two independent generators: the network is drawn from the first, and what proxies draw from the second.
    So a list of seeds says all that the result depends on beside ``build`` and ``batches``, and a longer list repeats
    the scores of a shorter one. A proxy that is undefined for one of the networks is undefined, and the reason names
    the seed.

    Raises ValueError for fewer than two seeds or equal ones, and as `measure` does.
    """
    from scipy.stats import t

    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"two or more different seeds are needed, got {list(seeds)}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, is {confidence}")
    names = tuple(names)
    found: dict[str, list[float]] = {name: [] for name in names}
    refused: dict[str, Undefined] = {}
    for seed in seeds:
        weights, draws = np.random.default_rng(seed).spawn(2)
        asked = [name for name in names if name not in refused]
        for name, value in measure(build(weights), batches, asked, draws, at_once=at_once).items():
            if isinstance(value, Undefined):
                refused[name] = Undefined(f"initialised from seed {seed}: {value.reason}")
            else:
                found[name].append(value)
    reach = float(t.ppf(0.5 + confidence / 2, len(seeds) - 1)) / len(seeds) ** 0.5
    return {name: refused.get(name) or _repeated(found[name], reach) for name in names}


def _repeated(scores: list[float], reach: float) -> Repeated:
    mean, width = fmean(scores), reach * stdev(scores)
    return Repeated(mean, mean - width, mean + width, tuple(scores))

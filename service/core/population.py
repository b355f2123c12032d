"""What a space is worth as a whole: how the values of architectures drawn from it are spread, and what shifts them.

The empirical distribution function of a sample, F(t) = the share of architectures at least as good as t, compares
spaces rather than their best networks (Radosavovic et al., On Network Design Spaces for Visual Recognition, ICCV 2019;
Designing Network Design Spaces, CVPR 2020). It describes a space only as far as its rows were drawn from it and not
chosen for their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, Genes, Option, SearchSpace
from service.core.objectives import Direction, Values

LEVEL = 0.95
N_BOOT = 1000
MOST = 20_000
"""Rows that are described, at most: of more, so many are drawn."""
MOST_GENES = 20_000_000
"""Rows times choices that are described, at most."""
_POINTS = 200
"""Thresholds of a curve, at most."""
_LEAST = 5
"""Architectures on either side of a comparison."""
_CHUNK = 2_000_000
"""Numbers of the bootstrap that are in memory at once."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Thresholds (k,), rising, and the share of the sample at least as good as each, with a pointwise band."""

    thresholds: Values
    share: Values
    low: Values
    high: Values


@dataclass(frozen=True, slots=True)
class Shift:
    """Some architectures, ``n``, beside all others, values in the metric's unit.

    ``difference``: their mean minus that of the others, the signed area between the two distribution functions;
    ``low`` and ``high`` end its interval (Welch, Biometrika 1947). ``better``: the chance that one of them is better
    than one of the others, ties count half (Mann & Whitney, 1947).
    """

    n: int
    median: float
    difference: float
    low: float
    high: float
    better: float


@dataclass(frozen=True, slots=True)
class ChoiceEffect:
    """How far one choice shifts the values.

    ``effect``: epsilon squared of Kruskal and Wallis' test, the share of the variance of ranks that the choice
    explains, 0 to 1; ``p`` its p-value after Benjamini and Hochberg's correction over all choices. ``options``: each
    with what it shifts; None stands for the choice being inactive.
    """

    choice: str
    effect: float
    p: float
    options: tuple[tuple[Option | None, Shift], ...]


@dataclass(frozen=True, slots=True)
class Population:
    """A described sample of ``n`` architectures: its curve, its median and its mean with an interval."""

    n: int
    curve: Curve
    best: float
    median: float
    mean: float
    mean_low: float
    mean_high: float
    choices: tuple[ChoiceEffect, ...]


def describe(
    space: SearchSpace, genes: Genes, values: Values, direction: Direction, rng: np.random.Generator
) -> Population:
    """The population of rows (n, d) with their values (n,), by canonical rows.

    Choices come by effect, the largest first; those in which fewer than five architectures differ are left out. An
    inactive choice is an option of its own, None. Raises ValueError for fewer than two rows or values that are not
    finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or len(values) != len(genes):
        raise ValueError(f"needs at least two rows and a value for each, got {len(genes)} rows, {len(values)} values")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    means = _boot_means(values, rng)
    return Population(
        n=len(values),
        curve=curve(values, direction),
        best=float(values.min() if direction is Direction.MINIMISE else values.max()),
        median=float(np.median(values)),
        mean=float(values.mean()),
        mean_low=float(means[0]),
        mean_high=float(means[1]),
        choices=effects(space, genes, values, direction),
    )


def curve(values: Values, direction: Direction) -> Curve:
    """The distribution function at up to 200 thresholds, with a pointwise percentile bootstrap band."""
    from scipy.stats import binom

    ordered = np.sort(values)
    levels = np.unique(ordered)
    if len(levels) > _POINTS:
        levels = np.unique(np.quantile(ordered, np.linspace(0, 1, _POINTS), method="nearest"))
    if direction is Direction.MINIMISE:
        reached = np.searchsorted(ordered, levels, side="right")
    else:
        reached = len(ordered) - np.searchsorted(ordered, levels, side="left")
    share = reached / len(ordered)
    # How many of n redrawn values are at least as good is binomial, so the bootstrap's own quantiles are known exactly.
    low, high = (binom.ppf(q, len(ordered), share) / len(ordered) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Curve(levels, share, low, high)


def effects(space: SearchSpace, genes: Genes, values: Values, direction: Direction) -> tuple[ChoiceEffect, ...]:
    """The choices in which at least five architectures differ from the others, by effect, the largest first."""
    from scipy import stats

    rows = space.canonical(genes)
    shown = np.where(space.active(rows), rows, np.int8(-1))
    ranks = stats.rankdata(values)
    found: list[tuple[str, float, float, tuple[tuple[Option | None, Shift], ...]]] = []
    for column, choice in enumerate(space.choices):
        chosen = [option for option in range(-1, len(choice.options)) if (shown[:, column] == option).sum() >= _LEAST]
        masks = [shown[:, column] == option for option in chosen]
        if len(masks) < 2:
            continue
        inside = np.any(masks, axis=0)
        within = ranks if inside.all() else stats.rankdata(values[inside])
        effect, p = _kruskal(within, [mask[inside] for mask in masks])
        names = [None if option < 0 else choice.options[option] for option in chosen]
        shifts = [(name, shift(mask, values, direction, ranks)) for name, mask in zip(names, masks, strict=True)]
        found.append((choice.name, effect, p, tuple((name, each) for name, each in shifts if each is not None)))
    if not found:
        return ()
    adjusted = stats.false_discovery_control([p for _, _, p, _ in found]).tolist()
    made = [ChoiceEffect(name, effect, p, shifts) for (name, effect, _, shifts), p in zip(found, adjusted, strict=True)]
    return tuple(sorted(made, key=lambda each: -each.effect))


def shift(mask: Bools, values: Values, direction: Direction, ranks: NDArray[np.float64] | None = None) -> Shift | None:
    """The rows of a mask (n,) beside all others; None with fewer than five on either side.

    ``ranks``: those of the values, where they are at hand.
    """
    from scipy.special import stdtrit
    from scipy.stats import rankdata

    n, others = int(mask.sum()), int((~mask).sum())
    if min(n, others) < _LEAST:
        return None
    ranks = rankdata(values) if ranks is None else ranks
    one, other = values[mask], values[~mask]
    difference = float(one.mean() - other.mean())
    variances = np.array([one.var(ddof=1) / n, other.var(ddof=1) / others])
    error = float(np.sqrt(variances.sum()))
    half = 0.0
    if error > 0:
        freedom = float(variances.sum() ** 2 / (variances**2 / np.array([n - 1, others - 1])).sum())
        half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    # Of all pairs, those in which the one of the mask has the larger value.
    larger = (float(ranks[mask].sum()) - n * (n + 1) / 2) / (n * others)
    better = 1 - larger if direction is Direction.MINIMISE else larger
    return Shift(n, float(np.median(one)), difference, difference - half, difference + half, better)


def _kruskal(ranks: NDArray[np.float64], masks: Sequence[Bools]) -> tuple[float, float]:
    """Epsilon squared and the p-value; (0, 1) where all values are equal. Source: Kruskal & Wallis, JASA 1952."""
    from scipy.special import chdtrc

    n = len(ranks)
    spread = float(((ranks - ranks.mean()) ** 2).sum())
    if spread == 0:
        return 0.0, 1.0
    between = sum(float(mask.sum()) * (float(ranks[mask].mean()) - float(ranks.mean())) ** 2 for mask in masks)
    statistic = (n - 1) * between / spread
    return between / spread, float(chdtrc(len(masks) - 1, statistic))


def _boot_means(values: Values, rng: np.random.Generator) -> Values:
    """(2,): the ends of a percentile bootstrap interval of the mean."""
    at_once = max(1, _CHUNK // len(values))
    means = [
        values[rng.integers(len(values), size=(min(at_once, N_BOOT - start), len(values)))].mean(axis=1)
        for start in range(0, N_BOOT, at_once)
    ]
    return np.asarray(np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))

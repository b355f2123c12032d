"""What any predictor has to beat: the metric as a straight line in the logarithm of the parameters, or of the MACs.

Counting them costs nothing and ranks as well as most proxies. The slope is Theil and Sen's, the median slope of all
pairs: it has the sign of Kendall's tau between cost and label, so the line ranks exactly as well as the cost itself
does (upwards or downwards, as the labels say), and a few failed networks do not turn it.

Source: Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 1968.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, Self, final

import numpy as np

from predictors import container
from predictors.bootstrap import Values
from predictors.predictor import Architectures, NotFitted, Prediction, Predictor, check_targets
from search_spaces.space import FloatArray, Unsupported

LEAST_LABELS = 3

_VERSION = 1
_MOST_PAIRED = 1500
"""Rows whose pairs are looked at; more are thinned evenly, in the order of their cost."""


@dataclass(frozen=True, slots=True)
class _Line:
    """label ≈ level + slope · (log(1 + cost) − centre), on ``rows`` labels with squared deviations ``power`` of the
    log cost from its centre, and a residual standard deviation ``noise``."""

    space: str
    centre: float
    level: float
    slope: float
    noise: float
    power: float
    rows: int


class CostLine(Predictor, ABC):
    """A line in the log of one analytic cost of the rows as given. Final classes only name the cost.

    Needs 3 labels, of one group; features are ignored and replicates are plain rows. Constant labels, or equal costs,
    give a constant. The standard deviations are those of a least-squares line with the same residuals. `Unsupported` (a
    ValueError) where the space does not count the cost.
    """

    cost: ClassVar[Literal["params", "macs"]]

    def __init__(self) -> None:
        self._line: _Line | None = None

    @final
    def fit(
        self,
        groups: Sequence[Architectures],
        targets: Sequence[FloatArray],
        rng: np.random.Generator,
        *,
        init_from: Predictor | None = None,
    ) -> Self:
        """See `Predictor.fit`; ``rng`` is not used. Refuses several groups and ``init_from``: ValueError."""
        check_targets(groups, targets, LEAST_LABELS)
        if len(groups) > 1:
            raise ValueError(f"{self.cost} learns from one group, got {len(groups)}")
        if init_from is not None:
            raise ValueError(f"{self.cost} always starts afresh: init_from must be None")
        x, y = self._log_cost(groups[0]), np.asarray(targets[0], dtype=np.float64)
        order = np.lexsort((y, x))
        self._line = _fit_line(groups[0].space.digest, x[order], y[order])
        return self

    @final
    def predict(self, architectures: Architectures) -> Prediction:
        """See `Predictor.predict`; ValueError for another space than the fitted one."""
        line = self._require()
        if architectures.space.digest != line.space:
            raise ValueError(f"fitted to the space {line.space}, asked about {architectures.space.digest}")
        x = self._log_cost(architectures) - line.centre
        share = 1 / line.rows + (x * x / line.power if line.power > 0 else np.zeros(len(x)))
        return Prediction(line.level + line.slope * x, line.noise * np.sqrt(share), line.noise * np.sqrt(1 + share))

    @final
    def dump(self) -> bytes:
        """A `predictors.container` file, JSON alone. Raises `NotFitted`."""
        return container.pack(self.cost, _VERSION, asdict(self._require()))

    @final
    @classmethod
    def load(cls, data: bytes) -> Self:
        """See `Predictor.load`."""
        body, _ = container.unpack(data, cls.cost, _VERSION)
        try:
            numbers = {name: float(body[name]) for name in ("centre", "level", "slope", "noise", "power")}
            line = _Line(space=str(body["space"]), rows=int(body["rows"]), **numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a fitted line: {error}") from error
        if line.rows < 1 or min(line.noise, line.power) < 0 or not all(map(math.isfinite, numbers.values())):
            raise ValueError(f"not a fitted line: {line}")
        self = cls()
        self._line = line
        return self

    @final
    def _log_cost(self, architectures: Architectures) -> Values:
        space = architectures.space
        if self.cost not in space.counted:
            raise Unsupported(f"space {space.name!r} counts no {self.cost}: use a family that does not need them")
        return np.log1p(space.cost(architectures.genes)[self.cost].astype(np.float64))

    @final
    def _require(self) -> _Line:
        if self._line is None:
            raise NotFitted(f"{self.cost} is neither fitted nor loaded")
        return self._line


@final
class Params(CostLine):
    """The line in log parameters."""

    cost = "params"


@final
class Macs(CostLine):
    """The line in log MACs."""

    cost = "macs"


def _fit_line(space: str, x: Values, y: Values) -> _Line:
    """``x`` and ``y`` sorted by (x, y)."""
    centre = float(x.mean())
    slope = _median_slope(x, y)
    level = float(np.median(y - slope * (x - centre)))
    residual = y - level - slope * (x - centre)
    noise = math.sqrt(float(residual @ residual) / (len(x) - 2))
    # Constant labels: a little above 0, so that residuals can be divided by it.
    least = 1e-6 * max(abs(level), 1e-6)
    return _Line(space, centre, level, slope, max(noise, least), float(((x - centre) ** 2).sum()), len(x))


def _median_slope(x: Values, y: Values) -> float:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_PAIRED)).round().astype(np.int64))
    x, y = x[kept], y[kept]
    left, right = np.triu_indices(len(x), 1)
    run = x[right] - x[left]
    rises = run > 0
    if not rises.any():
        return 0.0
    rise, run = (y[right] - y[left])[rises], run[rises]
    # Where half of the pairs have equal labels the median is 0 whatever the rest says: then least squares decides.
    return float(np.median(rise / run)) or float((rise @ run) / (run @ run))

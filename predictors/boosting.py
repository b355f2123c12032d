"""Gradient boosting: a ridge line with regression trees on what it leaves, in an ensemble of eight.

*Encoding*: one-hot and ordinal choices, log parameters and log MACs where the space counts them, and the features
given; these measures as normal scores.
*Target*: normal scores of the labels, since telling good networks apart matters more than how bad the bad are.
*Members*: each of eight leaves out a quarter of the architectures. Its line is a ridge regression; its trees
(XGBoost) are fitted to the line's leave-one-out residuals, so that a line that passes through its own rows does not
hide from them what is left to learn. How much of the trees is used, between nothing and all, is what the left-out
quarters support.
*Spread*: the jackknife over members is the epistemic part. The rest of the residuals of left-out rows is noise, as a
function of the prediction, and the whole is scaled so that mean ± 1.645 std holds 90 % of them.

Sources: Chen & Guestrin, XGBoost, KDD 2016; Shao & Wu, "A general theory for jackknife variance estimation", Annals
of Statistics 1989; Lei et al., "Distribution-free predictive inference for regression", JASA 2018, §5.2 (residuals
scaled by a local spread).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from predictors import container
from predictors.bootstrap import Values
from predictors.ensemble import Ensemble, Matrix, Spread, fit_constant, fit_ensemble
from predictors.predictor import Architectures, NotFitted, Prediction, Predictor, TooFewLabels, check_targets
from predictors.scores import NormalScores
from search_spaces.encoding import one_hot, ordinal
from search_spaces.space import FloatArray

LEAST_LABELS = 8

_KIND, _VERSION = "boosting", 1
_COSTS = ("params", "macs")
_CHUNK = 1 << 15
"""Rows encoded at once."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """What is encoded: the digest of the space, and the given features with their widths, sorted by name."""

    space: str
    as_built: bool
    features: dict[str, int]


@final
class Boosting(Predictor):
    """Boosted trees over a ridge line. Learns from one group; several labels of one architecture are replicates.

    Needs labels of at least 8 different architectures. Equal data in any order and an equally seeded generator give
    the same predictor. Constant labels give that constant with a standard deviation near 0. A NaN in a feature means
    that this row lacks it; infinite ones are refused. ``as_built`` encodes rows as they are built, for costs;
    otherwise canonical rows are encoded, for accuracies.
    """

    def __init__(self, *, as_built: bool = False) -> None:
        self._as_built = as_built
        self._fitted: tuple[_Columns, Ensemble] | None = None

    def fit(
        self,
        groups: Sequence[Architectures],
        targets: Sequence[FloatArray],
        rng: np.random.Generator,
        *,
        init_from: Predictor | None = None,
    ) -> Self:
        """See `Predictor.fit`. Refuses several groups and ``init_from``: ValueError."""
        check_targets(groups, targets, LEAST_LABELS)
        if len(groups) > 1:
            raise ValueError(f"boosting learns from one group, got {len(groups)}")
        if init_from is not None:
            raise ValueError("boosting always starts afresh: init_from must be None")
        given = groups[0]
        widths = {name: int(values.shape[1]) for name, values in sorted(given.features.items())}
        columns = _Columns(given.space.digest, self._as_built, widths)
        rows, labels, row_of = _collapse(_encode(given, columns), np.asarray(targets[0], dtype=np.float64))
        if len(rows) < LEAST_LABELS:
            raise TooFewLabels(f"needs labels of at least {LEAST_LABELS} different architectures, got {len(rows)}")
        if labels.min() == labels.max():
            self._fitted = columns, fit_constant(float(labels[0]), rows.shape[1])
        else:
            measures = len(given.space.counted & set(_COSTS)) + sum(widths.values())
            # One thread: sums have one order on every machine, and busy cores do not make BLAS wait for itself.
            with threadpool_limits(limits=1, user_api="blas"):
                self._fitted = columns, fit_ensemble(rows, measures, labels, row_of, rng)
        return self

    def predict(self, architectures: Architectures) -> Prediction:
        """See `Predictor.predict`. ValueError also for another space than the fitted one, or infinite features."""
        columns, ensemble = self._require()
        parts = []
        for start in range(0, max(len(architectures), 1), _CHUNK):
            rows = slice(start, start + _CHUNK)
            features = {name: architectures.features[name][rows] for name in architectures.features}
            chunk = Architectures(architectures.space, architectures.genes[rows], features)
            parts.append(ensemble.predict(_encode(chunk, columns)))
        mean, epistemic, std = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Prediction(mean, epistemic, std)

    def dump(self) -> bytes:
        """A `predictors.container` file: JSON, and XGBoost's UBJ. Raises `NotFitted`."""
        columns, ensemble = self._require()
        body = {
            "space": columns.space,
            "as_built": columns.as_built,
            "features": columns.features,
            "target": _knots(ensemble.target),
            "scales": [_knots(scale) for scale in ensemble.scales],
            "intercepts": ensemble.intercepts.tolist(),
            "slopes": ensemble.slopes.tolist(),
            "tree_share": ensemble.tree_share,
            "spread": [ensemble.spread.at.tolist(), ensemble.spread.noise.tolist(), ensemble.spread.scale],
        }
        return container.pack(_KIND, _VERSION, body, [bytes(tree.save_raw("ubj")) for tree in ensemble.trees])

    @classmethod
    def load(cls, data: bytes) -> Self:
        """See `Predictor.load`."""
        body, blobs = container.unpack(data, _KIND, _VERSION)
        try:
            columns, ensemble = _read(body, blobs)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"not a fitted boosting predictor: {error}") from error
        self = cls(as_built=columns.as_built)
        self._fitted = columns, ensemble
        return self

    def _require(self) -> tuple[_Columns, Ensemble]:
        if self._fitted is None:
            raise NotFitted("boosting is neither fitted nor loaded")
        return self._fitted


def _encode(architectures: Architectures, columns: _Columns) -> Matrix:
    """(n, f): choices, log costs, then the fitted features in the order of their names."""
    space = architectures.space
    if space.digest != columns.space:
        raise ValueError(f"fitted to the space {columns.space}, asked about {space.name} {space.digest}")
    missing = sorted(set(columns.features) - set(architectures.features))
    if missing:
        raise ValueError(f"fitted with features that are missing here: {', '.join(missing)}")
    genes = architectures.genes if columns.as_built else space.canonical(architectures.genes)
    cost = space.cost(genes)
    parts: list[FloatArray] = [one_hot(space, genes), ordinal(space, genes)]
    parts += [np.log1p(cost[name])[:, None] for name in _COSTS if name in cost]
    for name, width in columns.features.items():
        values = architectures.features[name]
        if values.shape[1] != width:
            raise ValueError(f"feature {name!r} was fitted with {width} columns, got {values.shape[1]}")
        # float32 is what the trees see: what overflows there is infinite too.
        with np.errstate(over="ignore"):
            infinite = np.isinf(values.astype(np.float32)).any(axis=1)
        if infinite.any():
            raise ValueError(f"feature {name!r} is infinite or above 3e38 in row {int(np.flatnonzero(infinite)[0])}")
        parts.append(values)
    # + 0.0 makes -0.0 and 0.0 one row.
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in parts], axis=1) + np.float32(0.0)


def _collapse(raw: Matrix, labels: Values) -> tuple[Matrix, Values, NDArray[np.intp]]:
    """Distinct rows in the order of their bytes, the labels sorted by (row, label), and the row of each label."""
    whole = np.ascontiguousarray(raw).view(f"V{raw.shape[1] * raw.itemsize}").ravel()
    _, first, row_of = np.unique(whole, return_index=True, return_inverse=True)
    order = np.lexsort((labels, row_of))
    return raw[first], labels[order], row_of[order]


def _knots(scores: NormalScores) -> list[list[float]]:
    return [scores.values.tolist(), scores.scores.tolist()]


def _numbers(stated: Any) -> Values:
    return np.array(stated, dtype=np.float64)


def _read(body: dict[str, Any], blobs: list[bytes]) -> tuple[_Columns, Ensemble]:
    import xgboost

    space, as_built, features = body["space"], body["as_built"], body["features"]
    if not isinstance(space, str) or not isinstance(as_built, bool) or not isinstance(features, dict):
        raise ValueError("space, as_built and features must be text, a Boolean and an object")
    widths = {str(name): int(width) for name, width in sorted(features.items())}
    trees = []
    for blob in blobs:
        booster = xgboost.Booster({"nthread": 1})
        try:
            booster.load_model(bytearray(blob))
        except xgboost.core.XGBoostError as error:
            raise ValueError(f"XGBoost refuses a booster: {str(error).splitlines()[0]}") from error
        trees.append(booster)
    at, noise, scale = body["spread"]
    ensemble = Ensemble(
        target=NormalScores(*map(_numbers, body["target"])),
        scales=tuple(NormalScores(*map(_numbers, scale)) for scale in body["scales"]),
        intercepts=_numbers(body["intercepts"]),
        slopes=_numbers(body["slopes"]),
        tree_share=float(body["tree_share"]),
        trees=tuple(trees),
        spread=Spread(_numbers(at), _numbers(noise), float(scale)),
    )
    return _Columns(space, as_built, widths), ensemble

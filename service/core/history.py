"""What a designer sees of a search: arrays, one row per trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Bools, FloatArray, Genes, IntArray
from service.core.objectives import Values
from service.core.states import COUNTED, OPEN


@dataclass(frozen=True, slots=True)
class History:
    """The trials of one search, ordered by number, pending ones included. n trials, d choices, m objectives.

    Attributes:
        numbers: (n,) trial numbers, ascending.
        asks: (n,) the ask that suggested each.
        genes: (n, d) canonical rows.
        fidelity: (n,) in (0, 1], 1 is the full evaluation.
        states: (n,) of `service.core.states.State`, as strings.
        objectives: (n, m) minimised, NaN where unmeasured.
        violations: (n, c) by how much each constraint is broken (0: not at all), NaN where unmeasured.
        predicted: (n, m) means predicted before the trial was measured, minimised, NaN where there was no prediction.
        probe: (n,) drawn uniformly, for the audit of predictors.
        evaluation: (n,) asked for all objectives; False for cheap trials, of which only scores were wanted.
        cost_s: (n,) seconds paid, 0 for reused measurements.
        features: further columns by name, (n, k) each, NaN where unmeasured: scores of zero-cost proxies, (n, 1).
        memo: n JSON objects that the designer attached to its suggestions.
        state: the designer's own blob of the last ask, empty at first.
    """

    numbers: IntArray
    asks: IntArray
    genes: Genes
    fidelity: Values
    states: NDArray[np.str_]
    objectives: Values
    violations: Values
    predicted: Values
    probe: Bools
    evaluation: Bools
    cost_s: Values
    features: Mapping[str, FloatArray]
    memo: tuple[Mapping[str, Any], ...]
    state: Mapping[str, Any]

    def __post_init__(self) -> None:
        n = len(self.numbers)
        columns = (
            "asks",
            "genes",
            "fidelity",
            "states",
            "objectives",
            "violations",
            "predicted",
            "probe",
            "evaluation",
            "cost_s",
            "memo",
        )
        for name in columns:
            if len(getattr(self, name)) != n:
                raise ValueError(f"history: {name} has {len(getattr(self, name))} rows, numbers has {n}")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def pending(self) -> Bools:
        """(n,): queued or leased."""
        result: Bools = np.isin(self.states, [state.value for state in OPEN])
        return result

    @property
    def complete(self) -> Bools:
        """(n,): ended with all objectives measured, at the full fidelity."""
        ended = np.isin(self.states, [state.value for state in COUNTED])
        result: Bools = ended & np.isfinite(self.objectives).all(axis=1) & (self.fidelity == 1.0)
        return result

    @property
    def feasible(self) -> Bools:
        """(n,): complete and within all constraints (an unmeasured constraint is not met)."""
        result: Bools = self.complete & (self.violations <= 0).all(axis=1)
        return result

    def scores(self, genes: Genes) -> dict[str, FloatArray]:
        """The `features` of rows (n, d), by name, (n, k) each: what any trial of the same row has; NaN where none."""
        places: dict[bytes, list[int]] = {}
        for place, row in enumerate(self.genes):
            places.setdefault(row.tobytes(), []).append(place)
        found = {}
        for name, column in self.features.items():
            values = np.full((len(genes), column.shape[1]), np.nan)
            for index, row in enumerate(genes):
                for place in places.get(row.tobytes(), ()):
                    if np.isfinite(column[place]).all():
                        values[index] = column[place]
            found[name] = values
        return found

    @staticmethod
    def empty(choices: int, objectives: int, constraints: int = 0) -> History:
        """A search that has not asked yet."""
        return History(
            numbers=np.empty(0, dtype=np.int64),
            asks=np.empty(0, dtype=np.int64),
            genes=np.empty((0, choices), dtype=np.int8),
            fidelity=np.empty(0),
            states=np.empty(0, dtype="U10"),
            objectives=np.empty((0, objectives)),
            violations=np.empty((0, constraints)),
            predicted=np.empty((0, objectives)),
            probe=np.empty(0, dtype=bool),
            evaluation=np.empty(0, dtype=bool),
            cost_s=np.empty(0),
            features={},
            memo=(),
            state={},
        )

"""Aggregates of proxies: a pool of architectures, all of whose columns are scored, ranked among each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy.orm import Session

from search_spaces.space import FloatArray
from service.core.metrics import Circumstances
from service.core.scoring import AGGREGATES, Scoring
from service.db import ledger
from service.wire.base import Metrics


@dataclass(frozen=True, slots=True)
class Ranked:
    """Per architecture of a pool its score, NaN where a column is not defined; ``count`` of them have one."""

    scores: FloatArray
    count: int


def rank(
    s: Session,
    study_id: int,
    name: str,
    ids: Sequence[int],
    scores: Sequence[Metrics],
    counted: Mapping[str, FloatArray],
    circumstances: Circumstances,
) -> Ranked:
    """Ranks architectures by an aggregate of their ``scores`` and ``counted`` costs; what it gives is measured.

    The pool's digest is in the context of these measurements: the same pool again gives those that are there.
    """
    pooled = AGGREGATES[name]
    table = np.full((len(ids), len(pooled.columns)), np.nan)
    for place, column in enumerate(pooled.columns):
        table[:, place] = counted[column] if column in counted else [row.get(column, np.nan) for row in scores]
    found = pooled.rank(table, pooled.columns)
    within = replace(circumstances, scoring=replace(circumstances.scoring or Scoring(), pool=found.pool))
    whole = np.flatnonzero(np.isfinite(found.scores)).tolist()
    known = ledger.known(s, [ledger.Question(ids[index], (name,), within) for index in whole])
    ledger.link(s, [(study_id, [one.measurement_id for one in answer.values()]) for answer in known])
    fresh = [index for index, answer in zip(whole, known, strict=True) if not answer]
    ledger.record_all(
        s,
        [ledger.Entry(ids[index], within, {name: float(found.scores[index])}, study_id=study_id) for index in fresh],
    )
    return Ranked(found.scores, found.ranked)

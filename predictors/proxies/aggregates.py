"""Ranks of several proxies made into one: of a whole pool of architectures, since a rank is a place among others.

A table has a row per architecture and a column per score; NaN says that a score is undefined. A row without one of its
scores has no aggregate and is left out of the pool, rather than ranked last: what is undefined is not bad. The same
architecture has another aggregate in another pool, so the pool's digest belongs to the measurement's context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.space import FloatArray

Direction: TypeAlias = Literal["higher", "lower"]

AZ_NAS = ("az_expressivity", "az_progressivity", "az_trainability", "macs")
"""The columns of `az_nas` as published; all are better when higher."""
VOTE = ("synflow", "jacob_cov", "snip")
"""The columns of `vote` as published; all are better when higher."""

_PAIRS = 1 << 22
"""Pairs of rows that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One score per row of a table.

    Attributes:
        scores: (n,), higher is better; NaN where a column is.
        pool: 32 hexadecimal digits that stand for the rows that were ranked, in any order, the columns and their
            directions.
        ranked: how many rows those are.
    """

    scores: FloatArray
    pool: str
    ranked: int


def az_nas(
    table: ArrayLike, columns: Sequence[str] = AZ_NAS, directions: Sequence[Direction] | None = None
) -> Aggregate:
    """Σ over columns of ln(rank / n): bad in one column is worse than good in another is good.

    Lee & Ham, AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search, CVPR 2024. Ranks go from 1 (worst)
    to n (best) among the n rows that have all columns; equal scores share their mean rank. At most 0.

    Args:
        table: (rows, columns), NaN where undefined.
        directions: of each column; ``higher`` if not given.

    Raises:
        ValueError: a shape or direction that does not fit, columns of one name or none, infinite numbers.
    """
    values, whole, pool = _pool(table, columns, directions)
    scores = np.full(len(values), np.nan)
    ranks = np.stack([_ranks(column) for column in values[whole].T], axis=1) if whole.any() else values[whole]
    scores[whole] = np.log(ranks / max(1, len(ranks))).sum(axis=1)
    return Aggregate(scores, pool, int(whole.sum()))


def vote(table: ArrayLike, columns: Sequence[str] = VOTE, directions: Sequence[Direction] | None = None) -> Aggregate:
    """The share of the other rows that a row beats by a majority of the columns; a draw counts half.

    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021, decide which of two networks is better by a
    majority of three proxies. Majorities can go in circles (a beats b beats c beats a), and so give no order; the
    number of pairs won does, and agrees with every majority where they do not (Copeland, 1951). With an even number of
    columns, and for equal scores, the published code lets the second network win both ways round; here it is a draw.
    In [0, 1]; with a single row, 1/2.

    Args and errors: as of `az_nas`.
    """
    values, whole, pool = _pool(table, columns, directions)
    scores = np.full(len(values), np.nan)
    places = np.stack([np.unique(column, return_inverse=True)[1] for column in values[whole].T]).astype(np.int32)
    count = places.shape[1]
    wins = np.empty(count)
    step = max(1, _PAIRS // max(1, count))
    for start in range(0, count, step):
        balance = np.zeros((min(step, count - start), count), dtype=np.int16)
        for column in places:
            mine = column[start : start + step, None]
            balance += mine > column
            balance -= mine < column
        wins[start : start + step] = (balance > 0).sum(axis=1) + ((balance == 0).sum(axis=1) - 1) / 2
    scores[whole] = wins / (count - 1) if count > 1 else 0.5
    return Aggregate(scores, pool, count)


def _pool(
    table: ArrayLike, columns: Sequence[str], directions: Sequence[Direction] | None
) -> tuple[FloatArray, NDArray[np.bool_], str]:
    """(n, k) values of which higher is better, which rows are whole, and the digest of those."""
    values = np.array(table, dtype=np.float64)
    directions = ["higher"] * len(columns) if directions is None else list(directions)
    if values.ndim != 2 or values.shape[1] != len(columns) or not columns:
        raise ValueError(f"the table must be (n, {len(columns)}) for columns {list(columns)}, is {values.shape}")
    if len(set(columns)) < len(columns):
        raise ValueError(f"columns must differ, are {list(columns)}")
    if len(directions) != len(columns) or not set(directions) <= {"higher", "lower"}:
        raise ValueError(f"directions must be higher or lower, one for each column, are {directions}")
    if np.isinf(values).any():
        raise ValueError("a score is infinite; what is undefined is NaN")
    values *= [1.0 if direction == "higher" else -1.0 for direction in directions]
    values += 0.0  # A zero has one sign: it would count as two in the digest.
    whole: NDArray[np.bool_] = ~np.any(np.isnan(values), axis=1)
    digest = blake2b(digest_size=16)
    for name, direction in zip(columns, directions, strict=True):
        digest.update(f"{name}\0{direction}\0".encode())
    ranked = values[whole]
    digest.update(ranked[np.lexsort(ranked.T[::-1])].astype("<f8").tobytes())
    return values, whole, digest.hexdigest()


def _ranks(column: FloatArray) -> FloatArray:
    """(n,) ranks from 1 up, equal numbers sharing the mean of theirs."""
    _, places, counts = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: FloatArray = last - (counts - 1) / 2
    return mean[places]

"""Architectures as numbers: (n, d) genes → (n, f) float32 features, in one vectorised pass.

Each encoding has a twin that names its features. Rows are encoded as they are: a predictor of accuracy passes
``space.canonical(genes)``, a predictor of cost the rows as built.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Choice, Genes, SearchSpace

Features = NDArray[np.float32]
_CHUNK = 4096
"""Rows encoded at once: their intermediate values stay in the cache."""


def one_hot(space: SearchSpace, genes: Genes) -> Features:
    """(n, f), one feature per option of each choice: 1 where it is chosen; all zero for an inactive choice."""
    genes = np.asarray(genes, dtype=np.int8)
    columns = np.repeat(np.arange(len(space.choices)), space.sizes)
    options = np.concatenate([np.arange(size, dtype=np.int8) for size in space.sizes])
    result = np.empty((len(genes), len(columns)), dtype=np.float32)
    for start in range(0, len(genes), _CHUNK):
        rows = genes[start : start + _CHUNK]
        shown = np.where(space.active(rows), rows, np.int8(-1))
        result[start : start + _CHUNK] = shown.take(columns, axis=1) == options
    return result


def one_hot_names(space: SearchSpace) -> list[str]:
    """``choice=option`` for each feature of `one_hot`."""
    return [f"{choice.name}={option}" for choice in space.choices for option in choice.options]


def ordinal(space: SearchSpace, genes: Genes, *, inactive: float = -1.0) -> Features:
    """(n, d), one feature per choice: its option's value, or its index where options are words, scaled to 0..1.

    An inactive choice is ``inactive``. A choice of one option is 0.
    """
    genes = np.asarray(genes, dtype=np.int8)
    table = np.zeros((len(space.choices), int(space.sizes.max())), dtype=np.float32)
    for column, choice in enumerate(space.choices):
        table[column, : len(choice.options)] = _scaled(choice)
    values = table[np.arange(len(space.choices)), genes]
    return np.where(space.active(genes), values, np.float32(inactive))


def ordinal_names(space: SearchSpace) -> list[str]:
    """The choices' names."""
    return [choice.name for choice in space.choices]


def _scaled(choice: Choice) -> Features:
    numeric = all(isinstance(option, int | float) for option in choice.options)
    values = np.array(choice.options if numeric else range(len(choice.options)), dtype=np.float64)
    spread = float(np.ptp(values))
    scaled: Features = ((values - values.min()) / (spread if spread > 0 else 1.0)).astype(np.float32)
    return scaled

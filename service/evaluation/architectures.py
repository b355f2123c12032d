"""From what a payload says to a space and genes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces.space import Genes, SearchSpace
from service.core.errors import Invalid
from service.core.spaces import build_space
from service.wire.spaces import SpaceSpec


def space_of(spec: SpaceSpec) -> SearchSpace:
    """Raises `Invalid` with the field."""
    return build_space(spec.plugin, spec.options, spec.identity)


def rows_of(space: SearchSpace, genes: Sequence[Sequence[int]]) -> Genes:
    """(n, d) int8. Raises `Invalid` for rows of another length, `InvalidArchitecture` for other faults."""
    width = len(space.choices)
    for index, row in enumerate(genes):
        if len(row) != width:
            raise Invalid(f"genes.{index}", f"has {len(row)} genes, {space.name} has {width} choices")
    return space.check(np.array(genes, dtype=np.int64).reshape(len(genes), width))

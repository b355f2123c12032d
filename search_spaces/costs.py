"""Parameters and MACs of networks that are put together from parts, looked up and summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Genes, IntArray, InvalidSpace

MAX_COSTS = 1 << 20
"""What is listed at most: a part that may stand at a place, at a resolution."""
_CHUNK = 8192
"""Rows whose costs are looked up at once: their indices stay in the cache."""


class Part(Protocol):
    """What may stand at a place of a network."""

    @property
    def params(self) -> int:
        """Weights and biases."""

    def macs(self, sides: IntArray) -> IntArray:
        """(n,) multiply-accumulates for square inputs of these sides in pixels, (n,)."""


class CostTables:
    """What each setting of each place of a network costs.

    ``places`` are the parts that may stand at each place, one per setting, and the sides of their inputs,
    (resolutions,); places may differ in how many they have. The setting after a place's last leaves it empty.
    ``fixed_params`` and ``fixed_macs`` (resolutions,) are of what is the same in all networks. Raises `InvalidSpace` if
    there are networks of more MACs than a 64-bit integer holds, or more than 2^20 costs to list.
    """

    def __init__(
        self,
        places: Sequence[tuple[Sequence[Part], IntArray]],
        fixed_params: int = 0,
        fixed_macs: IntArray | int = 0,
    ) -> None:
        listed = sum((len(parts) + 1) * len(sides) for parts, sides in places)
        if listed > MAX_COSTS:
            message = f"all parts that may stand in a network have {listed:,} costs at so many resolutions, at most "
            raise InvalidSpace(f"{message}{MAX_COSTS:,} are listed", "resolutions")
        # In Python's integers, which do not overflow.
        largest = [(parts, np.array([int(sides.max())], dtype=object)) for parts, sides in places]
        most = sum(max(int(part.macs(side)[0]) for part in parts) for parts, side in largest)
        if most + int(np.max(fixed_macs)) > np.iinfo(np.int64).max:
            raise InvalidSpace("the largest network has more MACs than can be counted", "resolutions")
        self._fixed_params = fixed_params
        self._fixed_macs = np.broadcast_to(np.asarray(fixed_macs, dtype=np.int64), places[0][1].shape)
        self._params = np.array([cost for parts, _ in places for cost in (*(part.params for part in parts), 0)])
        columns = [column for parts, sides in places for column in (*(p.macs(sides) for p in parts), 0 * sides)]
        self._by_resolution: IntArray = np.stack(columns, axis=1).astype(np.int64)
        self._macs = self._by_resolution.ravel()
        self._starts = np.cumsum([0, *(len(parts) + 1 for parts, _ in places)]).astype(np.int32)
        self._places = self._starts[:-1]

    def macs_at(self, place: int) -> IntArray:
        """(resolutions, settings): the multiply-accumulates of the parts of one place."""
        return self._by_resolution[:, self._starts[place] : self._starts[place + 1] - 1]

    def look_up(self, resolutions: NDArray[np.integer], settings: NDArray[np.int32]) -> tuple[IntArray, IntArray]:
        """Parameters and MACs, (n,) each, for indices of resolutions (n,) and a setting per place (n, places)."""
        index = settings + self._places
        params = self._fixed_params + self._params.take(index).sum(axis=1)
        index += resolutions.astype(np.int32)[:, None] * np.int32(len(self._params))
        return params, self._fixed_macs[resolutions] + self._macs.take(index).sum(axis=1)

    def cost(self, genes: Genes, settings: Callable[[Genes], NDArray[np.int32]]) -> dict[str, IntArray]:
        """``params`` and ``macs``, (n,) each, of rows whose first choice is the resolution.

        ``settings`` gives the setting of each place (k, places) of some of the rows (k, d).
        """
        params, macs = np.empty(len(genes), dtype=np.int64), np.empty(len(genes), dtype=np.int64)
        for start in range(0, len(genes), _CHUNK):
            rows = genes[start : start + _CHUNK]
            params[start : start + _CHUNK], macs[start : start + _CHUNK] = self.look_up(rows[:, 0], settings(rows))
        return {"params": params, "macs": macs}

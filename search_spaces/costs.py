"""Parameters and MACs of networks that are put together from parts, looked up and summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Genes, IntArray

_CHUNK = 8192
"""Rows whose costs are looked up at once: their indices stay in the cache."""


class CostTables:
    """What each setting of each place costs.

    ``params[place]`` (settings,) and ``macs[place]`` (resolutions, settings); places may differ in their settings.
    ``fixed_params`` and ``fixed_macs`` (resolutions,) are of what is the same in all networks.
    """

    def __init__(
        self, params: Sequence[IntArray], macs: Sequence[IntArray], fixed_params: int, fixed_macs: IntArray
    ) -> None:
        self._params = np.concatenate(params)
        self._macs = np.concatenate(macs, axis=1).ravel()
        self._fixed_params, self._fixed_macs = fixed_params, fixed_macs
        self._places = np.cumsum([0, *(len(settings) for settings in params[:-1])]).astype(np.int32)

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

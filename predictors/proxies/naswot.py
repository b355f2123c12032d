"""NASWOT: how many different linear maps a batch sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals

_EPS = 2.0**-52


@final
class NasWot(Proxy):
    """ln det K, where Kᵢⱼ is the number of rectified units on which images i and j agree: both on, or both off.

    As in the second version of the paper, over the first batch, batch norm over the batch. The determinant is taken
    by Cholesky's factors in float64: K is positive semi-definite, and its numbers are counted exactly.
    `predictors.proxies.rectifiers` says what counts as a rectifier.
    """

    about = About(
        name="naswot",
        title="NASWOT",
        paper="Mellor et al., Neural Architecture Search without Training, ICML 2021",
        formula="ln det K, K the number of rectifiers on which two images agree",
        needs=frozenset(("forward", "relus")),
        failure=(
            "Grows with the number of units, whatever they do, and depends on the number of images. Undefined where "
            "two images switch the same units, as in a dead network, where there are fewer units than images, and "
            "without rectifiers."
        ),
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.responses` for what is refused; `NotDefined` too if the kernel is singular."""
        patterns = signals.responses().patterns
        return log_determinant(patterns.agreements, patterns.units)


def log_determinant(agreements: Tensor, units: int) -> float:
    """ln det of (n, n) agreements on ``units`` units. Raises `NotDefined` if they are singular."""
    import torch

    count = len(agreements)
    alike = int((agreements.triu(1) == units).sum())
    if alike:
        raise NotDefined(f"{alike} pairs of {count} images switch the same units: the kernel is singular")
    factor, failed = torch.linalg.cholesky_ex(agreements / units)
    pivots = factor.diagonal()
    if int(failed) or float(pivots.min()) ** 2 <= 4 * count * _EPS:
        raise NotDefined(f"the patterns of {count} images depend on one another: the kernel is singular")
    return count * math.log(units) + 2 * float(pivots.log().sum())

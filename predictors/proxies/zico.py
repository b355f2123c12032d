"""ZiCo: how steady the gradient of each weight is from minibatch to minibatch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals

_PAPER = "Li et al., ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients, ICLR 2023"
_FORMULA = (
    "sum over layers of ln of the sum over weights of mean |g| / standard deviation of g, g the gradients of the mean "
    "cross-entropy of the minibatches"
)
_FAILURE = (
    "Grows with the number of layers. With two minibatches a weight whose gradients happen to be close outweighs all "
    "others of its layer, so runs differ. Undefined for one minibatch, for minibatches with the same gradient, where "
    "the output does not depend on the image, and where gradients are zero by structure."
)


@final
class ZiCo(Proxy):
    """Σ over `Conv2d` and `Linear` layers of ln Σ mean |g| / std g, over the minibatches; weights of std 0 left out.

    The standard deviation is the population's. Between minibatches the gradient is set to zero, as the paper's formula
    says. ``accumulated``: it is not, as in the published code, where the k-th is the sum of the first k.
    """

    def __init__(self, *, accumulated: bool = False) -> None:
        self._accumulated = accumulated
        self.about = About(
            name="zico_accumulated" if accumulated else "zico",
            title="ZiCo (accumulated)" if accumulated else "ZiCo",
            paper=_PAPER + (", as its code computes it" if accumulated else ""),
            formula=_FORMULA + (", the k-th of them the sum of the first k" if accumulated else ""),
            needs=frozenset(("forward", "backward", "labels", "minibatches")),
            failure=_FAILURE,
        )

    def score(self, signals: Signals) -> float:
        """See `Signals.gradients` for what is refused."""
        return _score(signals.gradients(), self._accumulated)


def accumulated() -> ZiCo:
    """The variant of the published code."""
    return ZiCo(accumulated=True)


def _score(gradients: dict[str, Tensor], accumulated: bool) -> float:
    """Of gradients (minibatches, ...) by layer."""
    import torch

    totals = []
    for stack in gradients.values():
        rows = stack.flatten(1).double()
        if accumulated:
            rows = rows.cumsum(dim=0)
        spread = (rows - rows.mean(dim=0)).square_().mean(dim=0).sqrt_()
        totals.append(torch.where(spread > 0, rows.abs_().mean(dim=0) / spread, 0.0).sum())
    # A layer without a gradient, or with the same for all minibatches, is left out.
    logarithms = [math.log(total) for total in torch.stack(totals).tolist() if total > 0.0]
    if not logarithms:
        raise NotDefined("all minibatches have the same gradient")
    return sum(logarithms)

"""SynFlow: the synaptic flow of an untrained network, without data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


_PAPER = (
    "Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow, NeurIPS 2020; "
    "as a proxy: Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021"
)
_FORMULA = "sum over weights of |θ · ∂R/∂θ|, parameters absolute, batch norm left out, input of ones"


@final
class SynFlow(Proxy):
    """ln Σ |θ · ∂R/∂θ| over `Conv2d` and `Linear` weights, R the summed output for one input of ones.

    The network has absolute parameters, no normalisation, and float64 with an exponent of its own, so depth does not
    overflow it. `predictors.proxies.scaled` states the rule for each operation. The batch gives the input's shape
    alone. ``raw``: the sum itself, which ranks as its logarithm does and is what papers report.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self.about = About(
            name="synflow_raw" if raw else "synflow",
            title="SynFlow (raw)" if raw else "SynFlow",
            paper=_PAPER,
            formula=_FORMULA if raw else f"ln of the {_FORMULA}",
            needs=frozenset(("forward", "backward")),
            failure="Grows with depth and width whatever the accuracy; knows neither data nor normalisation."
            + (" Undefined in deep networks, where it exceeds float64." if raw else ""),
            unit="score" if raw else "log score",
        )

    def score(self, signals: Signals) -> float:
        """See `Signals.flow` for what is refused; ``raw``, sums above 1.8e308 are, too."""
        flow = signals.flow()
        if not self._raw:
            return math.log(flow.mantissa) + flow.exponent * math.log(2.0)
        try:
            return math.ldexp(flow.mantissa, flow.exponent)
        except OverflowError as error:
            raise NotDefined("the flow is above 1.8e308; its logarithm is not") from error


def raw() -> SynFlow:
    """The sum itself."""
    return SynFlow(raw=True)

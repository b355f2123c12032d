"""Parameters and MACs, counted on the network itself: what any proxy has to beat."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, final

from predictors.proxies.proxy import About, Proxy

if TYPE_CHECKING:
    from predictors.proxies.calls import LayerCall
    from predictors.proxies.signals import Signals


@final
class Params(Proxy):
    """The number of parameters of the network, biases and affine parameters included, shared ones once."""

    about = About(
        name="params",
        title="Parameters",
        paper="a count; the baseline of White et al., A Deeper Look at Zero-Cost Proxies, ICLR Blog Track 2022",
        formula="number of parameters",
        needs=frozenset(()),
        failure="Says nothing among networks of one size.",
        unit="parameters",
    )

    def score(self, signals: Signals) -> float:
        """Exact; defined for every network."""
        return float(signals.parameters())


@final
class Macs(Proxy):
    """Multiply-accumulate operations of convolutions and linear layers for one image of the first batch.

    Counted on calls of `Conv1d`, `Conv2d`, `Conv3d` (per output: inputs per group × kernel) and `Linear` layers;
    biases, normalisation and pooling count nothing, nor does a product that is no layer (attention).
    """

    about = About(
        name="macs",
        title="MACs",
        paper="a count; the baseline of White et al., A Deeper Look at Zero-Cost Proxies, ICLR Blog Track 2022",
        formula="sum over layer calls of outputs × inputs per output",
        needs=frozenset(("forward",)),
        failure="Says nothing among networks of one cost.",
        unit="MACs",
    )

    def score(self, signals: Signals) -> float:
        """Exact; defined for every network that runs on one image."""
        return float(sum(_macs(call) for call in signals.layer_calls()))


def _macs(call: LayerCall) -> int:
    from torch import nn

    layer: Any = call.layer
    if isinstance(layer, nn.Linear):
        return prod(call.output_shape) * layer.in_features
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return prod(call.output_shape) * (layer.in_channels // layer.groups) * prod(layer.kernel_size)
    return 0

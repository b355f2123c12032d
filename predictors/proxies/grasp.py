"""GraSP: what removing a weight does to the gradient's length."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


@final
class Grasp(Proxy):
    """−Σ θ · (H g) over `Conv2d` and `Linear` weights, H the Hessian and g the gradient of the first batch's mean loss.

    One pass, temperature 1: the loss is not flattened before it is differentiated.
    """

    about = About(
        name="grasp",
        title="GraSP",
        paper="Wang et al., Picking Winning Tickets before Training by Preserving Gradient Flow, ICLR 2020; as a "
        "proxy: Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021",
        formula="minus the sum over weights of θ · (Hessian · gradient) of the minibatch's mean cross-entropy",
        needs=frozenset(("forward", "backward", "labels")),
        failure="Of weights ahead of a batch norm it is the squared length of their gradient, and no more; the other "
        "layers add terms of either sign. Ill-conditioned in deep networks, where float32 leaves two digits. Published "
        "runs agree at a rank correlation of .63. Undefined where the output does not depend on the image, and for "
        "operations without a second derivative.",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.curvature` for what is refused."""
        return -signals.curvature()

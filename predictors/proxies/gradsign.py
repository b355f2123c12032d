"""GradSign: how much the gradients of single images agree in sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


@final
class GradSign(Proxy):
    """Σ over the weights of `Conv2d` and `Linear` layers of |Σᵢ sign ∂lᵢ/∂θ|, over the images of the first batch.

    Between 0 and images × weights. Other parameters (biases, affine parameters, weights of other kinds of layers) do
    not enter; layers of other kinds that keep images apart (layer and group norm, pooling, squeeze-and-excite) need
    nothing, and the score then is the definition's.
    """

    about = About(
        name="gradsign",
        title="GradSign",
        paper="Zhang & Jia, GradSign: Model Performance Inference with Theoretical Insights, ICLR 2022",
        formula="sum over weights of |sum over images of sign(gradient of the image's cross-entropy)|",
        needs=frozenset(("forward", "backward", "labels")),
        failure="Grows with the number of weights. Undefined where batch norm is left one position, where the output "
        "does not depend on the image, and where gradients are zero by structure, as upstream of batch norm that is "
        "averaged without an activation in between.",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.sign_sums` for what is refused."""
        import torch

        score = sum(float(sums.abs().sum(dtype=torch.float64)) for sums in signals.sign_sums().values())
        if score == 0.0:
            raise NotDefined("no weight has a gradient")
        return score

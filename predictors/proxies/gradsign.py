"""GradSign: how much the gradients of single images agree in sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


_PAPER = "Zhang & Jia, GradSign: Model Performance Inference with Theoretical Insights, ICLR 2022"
_FORMULA = "sum over weights of |sum over images of sign(gradient of the image's cross-entropy)|"
_UNDEFINED = (
    "Undefined where batch norm is left one position, where the output does not depend on the image, and where "
    "gradients are zero by structure, as upstream of batch norm that is averaged without an activation in between."
)


@final
class GradSign(Proxy):
    """Σ over the weights of `Conv2d` and `Linear` layers of |Σᵢ sign ∂lᵢ/∂θ|, over the images of the first batch.

    Between 0 and images × weights. Other parameters (biases, affine parameters, weights of other kinds of layers) do
    not enter; layers of other kinds that keep images apart (layer and group norm, pooling, squeeze-and-excite) need
    nothing, and the score then is the definition's. ``mean``: divided by the number of weights, so that it says how
    much images agree and not how large the network is.
    """

    def __init__(self, *, mean: bool = False) -> None:
        self._mean = mean
        self.about = About(
            name="gradsign_mean" if mean else "gradsign",
            title="GradSign (mean)" if mean else "GradSign",
            paper=_PAPER,
            formula=_FORMULA.replace("sum", "mean", 1) if mean else _FORMULA,
            needs=frozenset(("forward", "backward", "labels")),
            failure=("Forgets the size of the network. " if mean else "Grows with the number of weights. ")
            + _UNDEFINED,
        )

    def score(self, signals: Signals) -> float:
        """See `Signals.sign_sums` for what is refused."""
        import torch

        sums = signals.sign_sums().values()
        score = float(sum(each.abs().sum(dtype=torch.float64) for each in sums))
        if score == 0.0:
            raise NotDefined("no weight has a gradient")
        return score / sum(each.numel() for each in sums) if self._mean else score


def mean() -> GradSign:
    """The mean over the weights."""
    return GradSign(mean=True)

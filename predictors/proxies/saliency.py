"""Sums over the weights of what the gradient of one minibatch says of each; and of the weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, Need, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals

_AS_PROXY = "as a proxy: Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021"
_NEEDS: frozenset[Need] = frozenset(("forward", "backward", "labels"))


@final
class GradNorm(Proxy):
    """Σ over `Conv2d` and `Linear` weights of ‖∂L/∂θ‖₂, one norm per layer, L the mean loss of the first batch."""

    about = About(
        name="grad_norm",
        title="GradNorm",
        paper="Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021",
        formula="sum over layers of the Euclidean norm of the gradient of the minibatch's mean cross-entropy",
        needs=_NEEDS,
        failure="Grows with the number of layers, and with whatever scale the initialisation gives to gradients. "
        "Undefined where the output does not depend on the image.",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.gradient` for what is refused."""
        return float(sum(_norm(gradient) for gradient in signals.gradient().gradients.values()))


@final
class Plain(Proxy):
    """Σ θ · ∂L/∂θ over `Conv2d` and `Linear` weights, L the mean loss of the first batch."""

    about = About(
        name="plain",
        title="Plain",
        paper="Mozer & Smolensky, Skeletonization, NeurIPS 1988, without the absolute value; " + _AS_PROXY,
        formula="sum over weights of θ · (gradient of the minibatch's mean cross-entropy)",
        needs=_NEEDS,
        failure="The loss does not change when weights ahead of a batch norm are scaled, so their sum is zero by "
        "structure: what is left are the few other layers, whose terms cancel. Published runs agree at a rank "
        "correlation of .09. Undefined where the output does not depend on the image.",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.gradient` for what is refused."""
        found = signals.gradient()
        return float(sum((found.weights[name].double() * slope).sum() for name, slope in found.gradients.items()))


@final
class Snip(Proxy):
    """Σ |θ · ∂L/∂θ| over `Conv2d` and `Linear` weights, L the mean loss of the first batch."""

    about = About(
        name="snip",
        title="SNIP",
        paper="Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019; " + _AS_PROXY,
        formula="sum over weights of |θ · (gradient of the minibatch's mean cross-entropy)|",
        needs=_NEEDS,
        failure="Grows with depth and the number of weights; ranks much as the gradient's norm does. Undefined where "
        "the output does not depend on the image.",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.gradient` for what is refused."""
        found = signals.gradient()
        return float(sum((found.weights[name].double() * slope).abs().sum() for name, slope in found.gradients.items()))


@final
class L2Norm(Proxy):
    """Σ over `Conv2d` and `Linear` weights of ‖θ‖₂, one norm per layer; a weight that several layers share once."""

    about = About(
        name="l2_norm",
        title="L2 norm",
        paper="a baseline of Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021",
        formula="sum over layers of the Euclidean norm of the weights",
        needs=frozenset(()),
        failure="Knows neither the data nor how layers are connected: a count of layers and widths, weighed by the "
        "initialisation. Undefined without layers, and where all weights are zero.",
    )

    def score(self, signals: Signals) -> float:
        """Raises `NotDefined` if there is no weight other than zero."""
        from predictors.proxies.products import weighted_layers

        weights = {id(layer.weight): layer.weight for _, layer in weighted_layers(signals.network)}
        score = float(sum(_norm(weight.detach()) for weight in weights.values()))
        if score == 0.0:
            raise NotDefined("the network has no Conv2d or Linear weight other than zero")
        return score


def _norm(numbers: Tensor) -> Tensor:
    import torch

    length: Tensor = torch.linalg.vector_norm(numbers, dtype=torch.float64)
    return length

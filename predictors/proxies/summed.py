"""The gradient of a minibatch's mean cross-entropy, from one forward and backward pass through the whole of it.

What channels matter comes from the same pass: the derivative of an image's loss with respect to a factor on
one of a layer's output channels is the product of activation and gradient, summed over the channel's positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from predictors.proxies.per_image import image_losses
from predictors.proxies.products import Weighted, unique_weights, weighted_layers
from predictors.proxies.proxy import NotDefined
from predictors.proxies.whole_batch import PROBED, in_double, is_noise, together

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_SAME = 1e-6
"""Spread of the outputs over the images, relative to their size, that float32 cannot tell from none."""


@dataclass(frozen=True, slots=True)
class BatchGradient:
    """The gradient of the mean cross-entropy of one minibatch.

    Attributes:
        weights: of `Conv2d` and `Linear` layers, by the name of the first layer that has it; float32.
        gradients: with respect to them, 0 where none arrives.
        factors: for each of these layers by name, the derivatives of the mean loss with respect to a factor on each
            image's channel, (images, channels); or why there are none.
    """

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    factors: dict[str, Tensor] | NotDefined


def batch_gradient(signals: Signals, batch: int) -> BatchGradient:
    """See `Signals.gradient`."""
    images, labels = signals.batches[batch]
    network = signals.copy()
    factors = _Factors(network, len(images))
    slopes = _gradient(network, images, labels)
    weights = unique_weights(network)
    arrived = torch.stack([slope.any() for slope in slopes.values()]).tolist()
    reached = {id(weights[name]): name for name, some in zip(slopes, arrived, strict=True) if some}
    if not reached:
        raise NotDefined("no weight has a gradient")
    return BatchGradient({name: w.detach() for name, w in weights.items()}, slopes, factors.found(reached))


def gradients(signals: Signals) -> dict[str, Tensor]:
    """See `Signals.gradients`."""
    count = len(signals.batches)
    if count < 2:
        raise NotDefined("one minibatch has nothing to be compared with")
    found = [signals.gradient(batch).gradients for batch in range(count)]
    _check(signals)
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def mean_loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of a batch, which requires grad; `NotDefined` if it has nothing to do with the images."""
    if len(images) == 1:
        images = images.clone().requires_grad_()
    logits = network(images)
    loss = image_losses(logits, labels).mean()
    if len(images) > 1:
        rows = logits.detach()
        depends = float((rows - rows[0]).abs().max()) > _SAME * float(rows.abs().max())
    else:
        slope = None
        if loss.requires_grad:
            (slope,) = torch.autograd.grad(loss, images, retain_graph=True, allow_unused=True)
        depends = slope is not None and bool(slope.any())
    if not depends:
        raise NotDefined("the output does not depend on the image")
    return loss


def _check(signals: Signals) -> None:
    """Raises `NotDefined` where the gradient of a layer is rounding noise, told by that of a few images in float64."""
    images, labels = (part[:PROBED] for part in signals.batches[0])
    expected = in_double(lambda network, few: _gradient(network, few, labels), signals.copy(torch.float64), images)
    for name, gradient in _gradient(signals.copy(), images, labels).items():
        if bool(gradient.any()) and is_noise(gradient[None], expected[name][None]):
            raise NotDefined(f"{name}: its gradient is zero by structure, and what is left of it rounding noise")


def _gradient(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    weights = unique_weights(together(network))
    with torch.enable_grad():
        found = torch.autograd.grad(mean_loss(network, images, labels), list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight, requires_grad=False) if gradient is None else gradient
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
    }


class _Factors:
    """Collects Σ activation · gradient per image and channel while a pass runs."""

    def __init__(self, network: nn.Module, count: int) -> None:
        self._count = count
        self._sums: dict[str, Tensor] = {}
        self._refused: NotDefined | None = None
        self._layers = dict(weighted_layers(network))
        for layer in network.modules():
            if layer.__dict__.get("inplace") is True:
                layer.__dict__["inplace"] = False
        for name, layer in self._layers.items():
            layer.register_forward_hook(self._watch(name))

    def found(self, reached: dict[int, str]) -> dict[str, Tensor] | NotDefined:
        """By layer name; ``reached``: the weights, by id, that have a gradient."""
        called = {id(self._layers[name].weight) for name in self._sums}
        for weight, name in reached.items():
            if self._refused is None and weight not in called:
                self._refused = NotDefined(f"{name}: its weight is used outside of the layer")
        return self._refused or self._sums

    def _watch(self, name: str) -> Callable[[Weighted, tuple[Any, ...], Tensor], None]:
        def hook(layer: Weighted, args: tuple[Any, ...], output: Tensor) -> None:
            if len(output) != self._count or output.ndim < 2:
                self._refused = NotDefined(f"{name} gives {len(output)} rows for {self._count} images")
                return
            # Nothing here may hold the output itself, which holds the hook.
            activations, version = output.detach(), output._version
            # The channels of a linear layer come last, whatever lies between; those of a convolution first.
            axes = tuple(range(1, output.ndim - 1) if isinstance(layer, nn.Linear) else range(2, output.ndim))

            def arrive(delta: Tensor) -> None:
                if activations._version != version:
                    self._refused = NotDefined(f"{name}: its output is changed in place afterwards")
                    return
                product = activations * delta
                sums = product.sum(axes) if axes else product
                # A layer that is called twice has one factor for both.
                self._sums[name] = self._sums[name] + sums if name in self._sums else sums

            output.register_hook(arrive)  # type: ignore[no-untyped-call]

        return hook

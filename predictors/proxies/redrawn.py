"""Networks with weights of their own drawing, for proxies that are stated for one initialisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from predictors.proxies.proxy import NotDefined

LAYERS = (_ConvNd, nn.Linear)
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def redraw(network: nn.Module, generator: torch.Generator, spread: Callable[[Tensor], float]) -> None:
    """Draws weights of convolutions and linear layers from N(0, spread(weight)²); biases 0, norms' scales 1.

    On the CPU, so that a network has the same weights on any device. Other parameters (positions, class tokens,
    attention's joined projections) stay. Raises `NotDefined` for a weight that is computed from others.
    """
    with torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, LAYERS):
                if not isinstance(layer._parameters.get("weight"), nn.Parameter):
                    raise NotDefined(f"{name}: its weight is parametrised, and cannot be drawn")
                drawn = torch.randn(layer.weight.shape, generator=generator) * spread(layer.weight)
                layer.weight.copy_(drawn)
            elif isinstance(layer, NORMS) and layer.weight is not None:
                layer.weight.fill_(1.0)
            else:
                continue
            if layer.bias is not None:
                layer.bias.zero_()


def gaussian(weight: Tensor) -> float:
    """1: of Zen-NAS."""
    return 1.0


def kaiming(weight: Tensor) -> float:
    """√(2 / inputs of an output): He et al., Delving Deep into Rectifiers, ICCV 2015."""
    return float((2.0 / weight[0].numel()) ** 0.5)

"""Which layers one image passes, and with which shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a layer without children during the forward pass of one image; shapes include the batch of 1."""

    name: str
    layer: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def layer_calls(network: nn.Module, image: Tensor) -> tuple[LayerCall, ...]:
    """The calls in order, for an image (1, ...). The network is changed: it gets hooks, and is in evaluation mode."""
    network.eval()
    calls: list[LayerCall] = []

    def record(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(layer: nn.Module, args: tuple[object, ...], output: object) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                calls.append(LayerCall(name, layer, tuple(args[0].shape), tuple(output.shape)))

        return hook

    for name, layer in network.named_modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_hook(record(name))
        if isinstance(layer, _BatchNorm) and layer.running_mean is None:
            # Without running statistics it would refuse one position of one image, which no count minds.
            layer.running_mean = image.new_zeros(layer.num_features)
            layer.running_var = image.new_ones(layer.num_features)
            layer.track_running_stats = True
    with torch.no_grad():
        network(image)
    return tuple(calls)

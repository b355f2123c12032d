"""MACs and parameters of a network as it stands, counted while one input passes through it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def count(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> dict[str, float]:
    """``macs``: multiply-accumulate operations of convolutions and linear layers for one input of ``shape`` (c, h, w).

    ``params``: trainable parameters, each tensor counted once. The network is left in eval mode.
    """
    macs = 0

    def convolution(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # noqa: S101
        macs += output.numel() * layer.weight[0].numel()

    def linear(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, nn.Linear)  # noqa: S101
        macs += output.numel() * layer.in_features

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            handles.append(module.register_forward_hook(convolution))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(linear))
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros((1, *shape), device=device))
    finally:
        for handle in handles:
            handle.remove()
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return {"macs": float(macs), "params": float(trainable)}

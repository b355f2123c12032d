"""Layers that several image networks consist of, under the names of Once-for-All's (Cai et al., ICLR 2020)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

import torch
from torch import nn

Device = torch.device | str | None
M = TypeVar("M", bound=nn.Module)


def conv_layer(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    norm: bool = True,
    activation: str = "",
    device: Device = None,
) -> nn.Sequential:
    """``conv`` without bias, then ``bn`` if ``norm``, then ``act`` if an activation is named."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False, device=device)
    if norm:
        layers["bn"] = nn.BatchNorm2d(outputs, device=device)
    if activation:
        layers["act"] = act(activation)
    return nn.Sequential(layers)


def classifier(features: int, classes: int, device: Device = None) -> nn.Sequential:
    """A linear layer, ``linear``."""
    return nn.Sequential(OrderedDict(linear=nn.Linear(features, classes, device=device)))


def act(name: str) -> nn.Module:
    """``relu``, ``relu6``, or ``h_swish``, x·relu6(x + 3)/6."""
    return {"relu": nn.ReLU, "relu6": nn.ReLU6, "h_swish": nn.Hardswish}[name]()


def with_epsilon(module: M, epsilon: float) -> M:
    """The same module, all batch norms of which add ``epsilon`` to the variance instead of torch's 1e-5."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = epsilon
    return module

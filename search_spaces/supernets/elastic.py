"""Layers whose channels and kernels shrink: each works with the first channels, and the centre, of its largest weight.

Names of parameters are those of the published Once-for-All checkpoints. ``weights`` methods say what a sub-network
gets; `forward` uses the same tensors, so that a sub-network and its extract cannot differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.networks.initialise import SelfInitialised
from search_spaces.networks.layers import Device, act
from search_spaces.networks.layout import divisible

Weights = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)


class ElasticConv(nn.Module):
    """A convolution of the first input to the first output channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, device: Device = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, device=device)
        self.pointwise = kernel == 1 and stride == 1

    def weight(self, inputs: int, outputs: int) -> Tensor:
        """(outputs, inputs, kernel, kernel)"""
        return first(first(self.conv.weight, outputs), inputs, dim=1)

    def forward(self, x: Tensor, outputs: int) -> Tensor:
        weight = self.weight(x.shape[1], outputs)
        if self.pointwise:
            # A matrix product over pixels: with channels last, twice as fast as a convolution on small maps on a CPU.
            return F.linear(x.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)
        return F.conv2d(x, weight, None, self.conv.stride, self.conv.padding)


class ElasticLinear(nn.Module):
    """A linear layer of the first inputs."""

    def __init__(self, inputs: int, outputs: int, device: Device = None) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, device=device)

    def weights(self, inputs: int) -> Weights:
        """All that a linear layer of so many inputs holds."""
        return {"weight": first(self.linear.weight, inputs, dim=1), "bias": self.linear.bias}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, first(self.linear.weight, x.shape[1], dim=1), self.linear.bias)


class ElasticDepthwise(SelfInitialised):
    """A depthwise convolution with one weight for all kernel sizes.

    A smaller kernel is the centre of the next larger one, multiplied by a learnt matrix that all channels share
    (Cai et al., ICLR 2020, section 3.2); the identity at first.
    """

    def __init__(self, channels: int, kernels: Sequence[int], stride: int, device: Device = None) -> None:
        super().__init__()
        self.kernels = sorted(kernels)
        self.stride = stride
        largest = self.kernels[-1]
        self.conv = nn.Conv2d(
            channels, channels, largest, stride, largest // 2, groups=channels, bias=False, device=device
        )
        for small, large in zip(self.kernels, self.kernels[1:], strict=False):
            self.register_parameter(f"{large}to{small}_matrix", nn.Parameter(torch.eye(small**2, device=device)))

    def initialise(self) -> None:
        for matrix in self.parameters(recurse=False):
            nn.init.eye_(matrix)

    def weight(self, channels: int, kernel: int) -> Tensor:
        """(channels, 1, kernel, kernel)"""
        weight = first(self.conv.weight, channels)
        for index in range(len(self.kernels) - 1, self.kernels.index(kernel), -1):
            large, small = self.kernels[index], self.kernels[index - 1]
            rim = (large - small) // 2
            centre = weight[:, :, rim : rim + small, rim : rim + small].flatten(1)
            matrix = self.get_parameter(f"{large}to{small}_matrix")
            weight = F.linear(centre, matrix).view(-1, 1, small, small)
        return weight

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.weight(channels, kernel), None, self.stride, kernel // 2, groups=channels)


class ElasticNorm(nn.Module):
    """Batch norm of the first channels; in train mode it updates their running statistics alone."""

    def __init__(self, channels: int, device: Device = None) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, device=device)

    def weights(self, channels: int) -> Weights:
        """All that a batch norm of so many channels holds."""
        state = self.bn.state_dict(keep_vars=True)
        return {name: first(value, channels) if value.ndim else value for name, value in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        bn, channels = self.bn, x.shape[1]
        mean, variance = bn.running_mean, bn.running_var
        return F.batch_norm(
            x,
            None if mean is None else mean[:channels],
            None if variance is None else variance[:channels],
            first(bn.weight, channels),
            first(bn.bias, channels),
            self.training,
            0.1 if bn.momentum is None else bn.momentum,
            bn.eps,
        )


class ElasticSqueeze(nn.Module):
    """Squeeze-and-excitation of the first channels, a quarter of them in the middle, rounded to multiples of 8."""

    def __init__(self, channels: int, device: Device = None) -> None:
        super().__init__()
        squeezed = divisible(channels // 4)
        self.fc = nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(channels, squeezed, 1, device=device),
                expand=nn.Conv2d(squeezed, channels, 1, device=device),
            )
        )

    def weights(self, channels: int) -> Weights:
        """Under the names of `search_spaces.networks.mobile.Squeeze`."""
        squeezed = divisible(channels // 4)
        reduce, expand = self.fc.get_parameter("reduce.weight"), self.fc.get_parameter("expand.weight")
        return {
            "fc.reduce.weight": first(first(reduce, squeezed), channels, dim=1),
            "fc.reduce.bias": first(self.fc.get_parameter("reduce.bias"), squeezed),
            "fc.expand.weight": first(first(expand, channels), squeezed, dim=1),
            "fc.expand.bias": first(self.fc.get_parameter("expand.bias"), channels),
        }

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(x.shape[1])
        gate = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), weights["fc.reduce.weight"], weights["fc.reduce.bias"]))
        return x * F.hardsigmoid(F.conv2d(gate, weights["fc.expand.weight"], weights["fc.expand.bias"]))


class ConvLayer(nn.Module):
    """Elastic convolution, batch norm, activation if one is named."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "",
        device: Device = None,
    ) -> None:
        super().__init__()
        self.conv = ElasticConv(inputs, outputs, kernel, stride, device)
        self.bn = ElasticNorm(outputs, device)
        self.act = act(activation) if activation else nn.Identity()

    def weights(self, inputs: int, outputs: int) -> Weights:
        """Under the names of `search_spaces.networks.layers.conv_layer`."""
        return {"conv.weight": self.conv.weight(inputs, outputs)} | prefixed("bn.", self.bn.weights(outputs))

    def forward(self, x: Tensor, outputs: int) -> Tensor:
        return self.act(self.bn(self.conv(x, outputs)))  # type: ignore[no-any-return]


class DepthLayer(nn.Module):
    """Elastic depthwise convolution, batch norm, activation, squeeze-and-excitation if asked for."""

    def __init__(
        self,
        channels: int,
        kernels: Sequence[int],
        stride: int,
        activation: str,
        squeeze: bool,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.conv = ElasticDepthwise(channels, kernels, stride, device)
        self.bn = ElasticNorm(channels, device)
        self.act = act(activation)
        self.se = ElasticSqueeze(channels, device) if squeeze else None

    def weights(self, channels: int, kernel: int) -> Weights:
        """Under the names of `search_spaces.networks.layers.conv_layer`."""
        weights = {"conv.weight": self.conv.weight(channels, kernel)} | prefixed("bn.", self.bn.weights(channels))
        return weights if self.se is None else weights | prefixed("se.", self.se.weights(channels))

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        x = self.act(self.bn(self.conv(x, kernel)))
        return x if self.se is None else self.se(x)


def first(tensor: Tensor, count: int, *, dim: int = 0) -> Tensor:
    """The first ``count`` slices; the tensor itself where that is all, which spares autograd a copy."""
    return tensor if tensor.shape[dim] == count else tensor.narrow(dim, 0, count)


def prefixed(prefix: str, weights: Weights) -> Weights:
    """The same tensors under longer names."""
    return {prefix + name: value for name, value in weights.items()}


def whole(module: nn.Module, *names: str) -> Weights:
    """All that these parts of a module hold, under their full names: for what every sub-network uses whole."""
    return {f"{name}.{key}": value for name in names for key, value in module.get_submodule(name).state_dict().items()}


@torch.no_grad()
def assembled(network: M, weights: Weights) -> M:
    """A network on the meta device with copies of these weights, in eval mode."""
    network.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, assign=True)
    return network.eval()


def accept_published_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook for `register_load_state_dict_pre_hook` of a super-network: checkpoints under other published names load.

    Such are those of before ``mobile_inverted_conv`` became ``conv``, and those of a plain network of the largest
    size, which lack the name of the layer inside an elastic one.
    """
    known = {prefix + name for name in module.state_dict()}
    for name in [name for name in state if name not in known]:
        new = name.replace(".mobile_inverted_conv.", ".conv.")
        candidates = [new, *(new.replace(short, long) for short, long in _INSIDE.items())]
        found = next((each for each in candidates if each in known and each not in state), None)
        if found is not None:
            state[found] = state.pop(name)


_INSIDE = {".linear.": ".linear.linear.", "bn.": "bn.bn.", "conv.weight": "conv.conv.weight"}
"""The name of a layer and of the same inside an elastic one."""

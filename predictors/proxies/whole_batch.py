"""Passes in which a batch is normalised as a whole, as a network in training mode does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from predictors.proxies.proxy import NotDefined
from search_spaces.networks.memory import ran_out

PROBED = 4
"""Images that are passed twice, the second time in float64. Of two, batch norm of one position is a constant."""

_LEFT = 0.01

T = TypeVar("T")


def together(network: nn.Module) -> nn.Module:
    """The network, which is changed: in evaluation mode but for batch norms, no parameter requires grad.

    Batch norms normalise with the statistics of the batch they are fed; fed one value per channel they raise
    `NotDefined`.
    """
    network.eval().requires_grad_(False)
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            layer.train()
            layer.register_forward_pre_hook(_check(name))
    return network


def mixes_images(network: nn.Module) -> bool:
    """Whether an image's output depends on the images beside it."""
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


def in_double(run: Callable[[nn.Module, Tensor], T], network: nn.Module, images: Tensor) -> T:
    """``run`` of a network in float64. Raises `NotDefined` for networks that insist on another dtype."""
    try:
        return run(network, images.double())
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise NotDefined(f"the network cannot be checked in float64: {error}") from error


def is_noise(found: Tensor, expected: Tensor) -> bool:
    """Whether float32's rows (n, ...) are rounding noise: float64 leaves less than a hundredth of most of them.

    What is zero by structure is 1e-8 or so in float32 and 1e-16 in float64. The difference of the two says less: where
    gradients explode, a ReLU that switches within rounding changes them all, and they are as large as before.
    """
    sizes, true_sizes = found.double().flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    left = torch.where(sizes > 0, true_sizes / sizes, torch.ones_like(sizes))
    return not float(left.median()) > _LEFT


def finite(output: object, count: int) -> Tensor:
    """The output, if it is a finite tensor with a row per image; `NotDefined` if it is not."""
    if not isinstance(output, Tensor) or output.ndim < 1 or len(output) != count:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NotDefined(f"the output must have a row for each of {count} images, is {shape}")
    if not bool(torch.isfinite(output).all()):
        raise NotDefined("the output is not finite: a weight or an activation overflowed")
    return output


def _check(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].numel() <= args[0].shape[1]:
            raise NotDefined(f"{name}: batch norm has one value per channel, and no variance of it")

    return hook

"""Batch-norm statistics of a sub-network, and its accuracy: what makes shared weights worth measuring."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimates the running statistics of all batch norms; nothing else of the network changes.

    Each becomes the mean over all batches of the batch's mean and (unbiased) variance, weighted by the batches' sizes
    (Yu & Huang, ICCV 2019, section 3.3). Batches are images (n, c, h, w) at the network's resolution; about 500 images
    do. Raises ValueError if there are none.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    seen = 0
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        for images in batches:
            seen += len(images)
            for norm in norms:
                # running = (1 - momentum)·running + momentum·batch: an exact mean if momentum is the batch's share.
                norm.momentum = len(images) / seen
            network(images.to(memory_format=torch.channels_last))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if not seen:
        raise ValueError("no batches: batch norm has nothing to estimate its statistics from")


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 128) -> float:
    """The fraction of images (n, c, h, w) whose largest logit is their label's, 0 to 1.

    Leaves the network in eval mode. Raises ValueError for no images, or labels of another length.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels: must be equal, not 0")
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=images.device)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].to(memory_format=torch.channels_last)
        right += (network(batch).argmax(dim=1) == labels[start : start + batch_size]).sum()
    return int(right) / len(images)

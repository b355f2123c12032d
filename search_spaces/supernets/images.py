"""Images on their way into a network: batches (n, channels, height, width) of float32."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, resolution: int) -> Tensor:
    """(n, c, resolution, resolution), bilinear, smoothed where it shrinks; the same tensor where sizes are equal."""
    height, width = images.shape[-2:]
    if (height, width) == (resolution, resolution):
        return images
    shrinks = resolution < max(height, width)
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=shrinks)


def augment(images: Tensor, rng: np.random.Generator, *, crop: int = 0, flip: bool = False) -> Tensor:
    """Each image moved by up to ``crop`` pixels along both axes (zeros move in), and mirrored with probability ½."""
    n, _, height, width = images.shape
    if crop:
        down, right = (torch.from_numpy(rng.integers(0, 2 * crop + 1, size=n)) for _ in range(2))
        rows = (down[:, None] + torch.arange(height))[:, :, None].to(images.device)
        columns = (right[:, None] + torch.arange(width))[:, None, :].to(images.device)
        padded = F.pad(images, (crop, crop, crop, crop))
        images = padded[torch.arange(n, device=images.device)[:, None, None], :, rows, columns].movedim(-1, 1)
    if flip:
        mirrored = torch.from_numpy(rng.random(n) < 0.5).to(images.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images

"""Scoring one network with several proxies at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from predictors.proxies.proxy import NotDefined, Undefined, load

if TYPE_CHECKING:
    from torch import Tensor, nn


def measure(
    network: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    names: Iterable[str],
    rng: np.random.Generator,
    *,
    at_once: int | None = None,
) -> dict[str, float | Undefined]:
    """The score of ``network`` by each proxy, or why it has none.

    Passes that several proxies need are run once. All of them run on copies: the network is left bit-identical
    (parameters, buffers, gradients, training flags, requires_grad), and so are torch's generators and flags.

    Args:
        network: on any device, in any mode.
        batches: minibatches of (images (n, c, h, w) floating point, class labels (n,) int64), at least one. Proxies
            that need one batch take the first.
        names: plug-ins of the group ``frontier.proxies``.
        at_once: at most so many images in one pass, where a device has little memory. Scores differ by rounding alone:
            GradSign by the signs of gradients near zero.
        rng: seeds what proxies draw, each for itself, and whatever is random in the network's forward pass; equal
            generators give equal scores.

    Raises:
        UnknownPlugin: a name is no proxy.
        ValueError: no batch, or one with wrong shapes, labels that are no class indices, NaN or infinity.

    Whatever the network's forward pass raises on one image is raised here.
    """
    import torch

    from predictors.proxies.signals import Signals

    proxies = {name: load(name) for name in names}
    seed = int(rng.integers(2**31))
    device = batches[0][0].device if len(batches) else torch.device("cpu")
    scores: dict[str, float | Undefined] = {}
    # Forked: torch's own generators go on afterwards as if nothing had been drawn.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        signals = Signals(network, batches, at_once=at_once, seed=seed)
        for name, proxy in proxies.items():
            try:
                value = proxy.score(signals)
            except NotDefined as refusal:
                scores[name] = Undefined(str(refusal))
            else:
                finite = math.isfinite(value)
                scores[name] = value if finite else Undefined(f"the score is {value}: the arithmetic overflowed")
    return scores

"""Linear regions: how finely a network's rectifiers cut up its inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from torch import Tensor

    from predictors.proxies.signals import Signals

_POINTS = 64


@final
class LinearRegions(Proxy):
    """1 + the number of rectified units that switch between neighbours on an arc between two random images.

    Every switch enters another linear region, so this is a lower bound of the regions that the arc passes, as measured
    by Raghu et al. (On the Expressive Power of Deep Neural Networks, ICML 2017). The arc, of 64 points, runs from one
    image of standard normal numbers to another and keeps to a sphere; batch norm normalises over its points.

    TE-NAS counts the different patterns of units among random images instead, which ``inputs`` asks for. It takes
    3,000 crops of 3×3 pixels of one channel and networks one channel wide. In a network of usual width every image has
    a pattern of its own, so that the count is that of the images whatever the network; hence it is not what is asked
    for unless said, and it is undefined there. ``inputs`` are images of standard normal numbers of the first batch's
    shape, in equal minibatches of its size at most.

    `predictors.proxies.rectifiers` says what counts as a rectifier; where those are smooth, the regions are those in
    which none changes its sign. Max pooling cuts up inputs too, and is left out, as published.
    """

    about = About(
        name="linear_regions",
        title="Linear regions",
        paper=(
            "Chen et al., Neural Architecture Search on ImageNet in Four GPU Hours (TE-NAS), ICLR 2021; Xiong et al., "
            "On the Number of Linear Regions of Convolutional Neural Networks, ICML 2020"
        ),
        formula="1 + number of rectifiers that switch along an arc of 64 points between two random images",
        needs=frozenset(("forward", "relus")),
        failure=(
            "Grows with the number of units, whatever they do. Undefined where nothing switches, and without "
            "rectifiers; with `inputs` also where all of them differ, which is usual."
        ),
        unit="regions",
    )

    def __init__(self, *, inputs: int | None = None) -> None:
        """Raises ValueError for fewer than 2 inputs."""
        if inputs is not None and inputs < 2:
            raise ValueError(f"patterns need 2 inputs, got {inputs}")
        self._inputs = inputs

    def score(self, signals: Signals) -> float:
        """Raises `NotDefined` as `Signals.responses` does, and where the inputs tell nothing."""
        if self._inputs is None:
            patterns = signals.arc().patterns
            return 1.0 + float((patterns.units - patterns.agreements.diagonal(1)).sum())
        count = signals.once(f"regions of {self._inputs}", lambda: regions(signals, self._inputs or 0))
        if count == 1:
            raise NotDefined(f"{self._inputs} inputs lie in one region: nothing switches")
        if count == self._inputs:
            raise NotDefined(f"{count} inputs lie in {count} regions: the count is theirs, not the network's")
        return float(count)


def arc(signals: Signals) -> Tensor:
    """(64, ...) images: a quarter of a circle between two images of standard normal numbers."""
    import torch

    images = signals.batches[0][0]
    ends = torch.randn((2, *images.shape[1:]), generator=signals.generator("arc")).to(images.device)
    angles = torch.linspace(0.0, math.pi / 2, _POINTS, device=images.device).view(-1, *[1] * (images.ndim - 1))
    return angles.cos() * ends[0] + angles.sin() * ends[1]


def regions(signals: Signals, inputs: int) -> int:
    """The number of different patterns among so many random images, in minibatches of the first batch's size at most.

    Each minibatch has a batch norm of its own, as published. Patterns are told apart by digests of 128 bits.
    """
    import torch

    from predictors.proxies.responses import digests

    images = signals.batches[0][0]
    generator = signals.generator("regions")
    seen: set[bytes] = set()
    for places in torch.arange(inputs).tensor_split(-(-inputs // len(images))):
        drawn = torch.randn((len(places), *images.shape[1:]), generator=generator)
        seen.update(digests(signals, drawn.to(images.device)))
    return len(seen)

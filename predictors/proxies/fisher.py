"""Fisher information of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals


@final
class Fisher(Proxy):
    """Σ over output channels of ½ · mean over images of (∂L/∂z)², times the weights of the channel.

    z is a factor on the output channel of a `Conv2d` or `Linear` layer, L the mean loss of the first batch. A channel
    counts once per weight of its layer that makes it, as published. The channels of a linear layer are its last axis,
    whatever lies between; a layer that is called twice has one factor for both calls.
    """

    about = About(
        name="fisher",
        title="Fisher",
        paper="Theis et al., Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018; Turner et al., "
        "BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget, ICLR 2020; as a proxy: "
        "Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021",
        formula="sum over weights of half the mean square over images of the sum over positions of activation · "
        "gradient of its channel",
        needs=frozenset(("forward", "backward", "labels")),
        failure="Falls with the square of the batch and grows with width, so batches of one size alone compare. "
        "Undefined where the output does not depend on the image, and for layers that see other rows than images.",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.gradient` for what is refused."""
        found = signals.gradient()
        if isinstance(found.factors, NotDefined):
            raise found.factors
        from predictors.proxies.products import weighted_layers

        per_channel = {name: layer.weight[0].numel() for name, layer in weighted_layers(signals.network)}
        score = float(
            sum(
                factors.double().square().mean(dim=0).sum() * (per_channel[name] / 2)
                for name, factors in found.factors.items()
            )
        )
        if score == 0.0:
            raise NotDefined("no channel has a gradient")
        return score

"""The components of AZ-NAS, whose ranks `predictors.proxies.aggregates.az_nas` makes into one score.

The fourth, complexity, is `macs`. All three read one pass, `predictors.proxies.blocks`, which says what a block is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, final

from predictors.proxies.proxy import About, NotDefined, Proxy

if TYPE_CHECKING:
    from predictors.proxies.signals import Signals

_PAPER = "Lee & Ham, AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search, CVPR 2024"


@final
class Expressivity(Proxy):
    """Σ over blocks of −Σ p ln p, p the shares of the variance along the principal components of a block's output.

    Components are taken over images and positions of noise, in a network whose weights are drawn by He's rule: neither
    the data nor the network's weights enter.
    """

    about = About(
        name="az_expressivity",
        title="AZ-NAS expressivity",
        paper=_PAPER,
        formula="Σ over blocks of the entropy of the shares of principal components of the block's output, for noise",
        needs=frozenset(("forward", "feature_maps")),
        failure="Grows with the number of blocks and their width. Undefined without a row of blocks.",
        unit="nats",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.block_scores` for what is refused."""
        return sum(signals.block_scores().expressivity)


@final
class Progressivity(Proxy):
    """The least growth of `Expressivity`'s entropy from one block to the next; below 0 where one narrows it."""

    about = About(
        name="az_progressivity",
        title="AZ-NAS progressivity",
        paper=_PAPER,
        formula="least difference of the entropies of one block's output and of the block's before it, for noise",
        needs=frozenset(("forward", "feature_maps")),
        failure="One block decides. Undefined without a row of blocks.",
        unit="nats",
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.block_scores` for what is refused."""
        entropies = signals.block_scores().expressivity
        return min(after - before for before, after in pairwise(entropies))


@final
class Trainability(Proxy):
    """The mean over blocks but the first of 2 − σ − 1/(σ + 1e-6), σ the spectral norm of the block's Jacobian.

    σ is that of E[g ⊗ s] over images and positions, s random signs in place of the gradient of a block's output and g
    what they become at the output of the block before, with the positions that a stride covers as channels (where sizes
    do not fit, an extension, as if zeros lay beyond the edge). 0 is best: σ = 1 neither lets gradients vanish nor
    explode. The published code gives −∞ to a network one of whose blocks hands
    on its input; here it is undefined.
    """

    about = About(
        name="az_trainability",
        title="AZ-NAS trainability",
        paper=_PAPER,
        formula="mean over blocks of 2 − σ − 1/(σ + 1e-6), σ the spectral norm of the block's mean Jacobian, for noise",
        needs=frozenset(("forward", "backward", "feature_maps")),
        failure=(
            "Undefined without a row of blocks, and where one hands on its input, does not depend on it, or gives more "
            "positions than it gets."
        ),
    )

    def score(self, signals: Signals) -> float:
        """See `Signals.block_scores` for what is refused."""
        steps = signals.block_scores().trainability
        if isinstance(steps, NotDefined):
            raise steps
        return sum(steps) / len(steps)

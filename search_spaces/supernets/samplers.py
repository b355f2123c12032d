"""Which sub-networks a super-network is trained on next. Plug-ins of the group ``frontier.samplers``.

A sampler takes a space, a count of at least 2 and a generator, and returns (count, d) genes. The first row learns from
the labels and teaches the others.
"""

from __future__ import annotations

import numpy as np

from search_spaces.space import Genes, SearchSpace


def sandwich(space: SearchSpace, count: int, rng: np.random.Generator) -> Genes:
    """The largest, the smallest, and count − 2 random sub-networks (Yu & Huang, ICCV 2019, section 3.2).

    Fewer where the space has fewer. Raises ValueError for a count below 2.
    """
    if count < 2:
        raise ValueError(f"the sandwich rule needs at least 2 sub-networks, got {count}")
    ends = space.extremes()[::-1]
    return ends if count == 2 else np.concatenate([ends, space.sample(count - 2, rng)])

"""What a super-network is: one module that holds the weights of every network of a space."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from search_spaces.space import Genes, SearchSpace


class Supernet(nn.Module):
    """Weight sharing: each row of ``space`` selects a sub-network. None is ever "set": the row is an argument.

    In train mode batch norm uses, and updates its share of, the statistics of the batch. The running statistics are
    thus a mixture over sub-networks: to judge one, extract it and `recalibrate` (Yu & Huang, ICCV 2019).
    """

    space: SearchSpace

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """``forward(images, row)``: logits (n, classes) of the sub-network of ``row`` (d,) for images (n, c, h, w).

        Networks that read something else take their inputs, as `SearchSpace.inputs` gives them, before the row. Images
        are read at the size they have; `search_spaces.supernets.images.resize` brings them to the row's. Raises
        `InvalidArchitecture`.
        """

    @abstractmethod
    def extract(self, row: Genes) -> nn.Module:
        """A network of its own, in eval mode, with copies of the weights and statistics that ``row`` selects.

        In eval mode its output equals `forward`'s up to rounding. Raises `InvalidArchitecture`.
        """

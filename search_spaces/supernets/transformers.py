"""Super-networks of which every sub-network is a corner: the first channels, heads and blocks of the widest network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search_spaces.space import Genes, SearchSpace
from search_spaces.supernets.elastic import Weights, first
from search_spaces.supernets.supernet import Supernet


class CornerSupernet(Supernet):
    """Holds the parts of ``widest`` under their names.

    `forward` runs the plain network of a row on views of the shared weights, so that a sub-network and its extract
    cannot differ.
    """

    def __init__(self, space: SearchSpace, widest: nn.Module) -> None:
        super().__init__()
        self.space = space
        for name, part in widest.named_children():
            self.add_module(name, part)

    @abstractmethod
    def plain(self, row: Genes) -> nn.Module:
        """The network of a row, on the device "meta". Raises `InvalidArchitecture`."""

    @abstractmethod
    def part(self, name: str, shape: Sequence[int]) -> Tensor:
        """What a sub-network whose parameter ``name`` has this shape gets of the shared one."""

    def weights(self, network: nn.Module) -> Weights:
        """All parameters of a network that `plain` made."""
        return {name: self.part(name, parameter.shape) for name, parameter in network.named_parameters()}

    def forward(self, *args: Any) -> Tensor:
        *read, row = args
        network = self.plain(row)
        result: Tensor = functional_call(network, self.weights(network), tuple(read))
        return result

    @torch.no_grad()
    def extract(self, row: Genes) -> nn.Module:
        network = self.plain(row)
        copies = {name: value.detach().clone() for name, value in self.weights(network).items()}
        network.load_state_dict(copies, assign=True)
        return network.eval()


def corner(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """The first slices along each dimension; the tensor itself where that is all."""
    for dim, count in enumerate(shape):
        weight = first(weight, count, dim=dim)
    return weight

"""What a forward pass keeps for its backward pass: what bounds how many images pass at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Kept:
    """``bytes``: of all storages that passes have kept so far, views once and parameters not at all."""

    def __init__(self, network: nn.Module) -> None:
        self._held = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        self._sizes: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """The sum."""
        return sum(self._sizes.values())

    def see(self, tensor: Tensor) -> Tensor:
        """Counts a tensor, and gives what to keep of it."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._held:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()


@contextmanager
def keeping(network: nn.Module) -> Iterator[Kept]:
    """Counts what forward passes in this context keep for their backward passes."""
    kept = Kept(network)
    with torch.autograd.graph.saved_tensors_hooks(kept.see, lambda tensor: tensor):
        yield kept

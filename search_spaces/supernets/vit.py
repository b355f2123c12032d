"""The weight-sharing vision transformer, with AutoFormer's names and slices (Chen et al., ICCV 2021, section 3.2).

A published checkpoint loads, under its own names. One that is wider than any sub-network of the space gives its first
channels: AutoFormer's are 256 wide for embeddings of at most 240.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.networks.attention import Device
from search_spaces.networks.vit import Network
from search_spaces.space import Genes
from search_spaces.supernets.transformers import CornerSupernet, corner
from search_spaces.vit import VisionTransformer


class VisionSupernet(CornerSupernet):
    """All blocks at their widest; a row uses the first channels, the first heads, the first blocks."""

    space: VisionTransformer

    def __init__(self, space: VisionTransformer, device: Device = None) -> None:
        super().__init__(space, Network(space.full, device))
        self.register_load_state_dict_pre_hook(_accept_published)  # type: ignore[no-untyped-call]

    def plain(self, row: Genes) -> Network:
        return Network(self.space.layout(row), device="meta")

    def part(self, name: str, shape: Sequence[int]) -> Tensor:
        """A corner, but for the rows of ``qkv.weight``: query, key and value take turns in them.

        So the first heads are the first rows. The entries of ``qkv.bias`` do not take turns: it is cut as AutoFormer
        cuts it, and what is a bias of keys in one sub-network may be one of queries in another.
        """
        weight = self.get_parameter(name)
        if not name.endswith(".qkv.weight"):
            return corner(weight, shape)
        used = corner(weight, shape)
        return torch.cat([used[kind::3] for kind in range(3)])


def _accept_published(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}cls_token" not in state:
        return
    for name in ("cls_token", "pos_embed"):
        if prefix + name in state:
            state[f"{prefix}tokens.{name}"] = state.pop(prefix + name)
    for name, own in module.state_dict().items():
        given = state.get(prefix + name)
        if isinstance(given, Tensor) and given.ndim == own.ndim:
            fits = all(mine <= theirs for mine, theirs in zip(own.shape, given.shape, strict=True))
            state[prefix + name] = corner(given, own.shape) if fits else given

"""The weight-sharing encoder–decoder transformer, with HAT's slices (Wang et al., ACL 2020, section 3.1).

A published checkpoint of a SuperTransformer loads, under fairseq's names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from search_spaces.hat import Hat
from search_spaces.networks.attention import Device
from search_spaces.networks.hat import Network
from search_spaces.space import Genes
from search_spaces.supernets.transformers import CornerSupernet, corner

_EMBEDDINGS = {
    "encoder.embed_tokens.weight": "source_embedding.weight",
    "decoder.embed_tokens.weight": "target_embedding.weight",
    "decoder.embed_out": "output.weight",
}
_NO_WEIGHTS = re.compile(r"(encoder|decoder)\.(version|embed_positions\._float_tensor)")
_PROJECTION = re.compile(r"(.*)\.in_proj_(weight|bias)")


class HatSupernet(CornerSupernet):
    """All layers at their widest; a row uses the first channels, the first layers, and all channels of attention.

    The number of heads divides the channels of attention anew and takes none away.
    """

    space: Hat

    def __init__(self, space: Hat, device: Device = None) -> None:
        super().__init__(space, Network(space.full, device))
        self.register_load_state_dict_pre_hook(_accept_published)  # type: ignore[no-untyped-call]

    def plain(self, row: Genes) -> Network:
        return Network(self.space.layout(row), device="meta")

    def part(self, name: str, shape: Sequence[int]) -> Tensor:
        """A corner."""
        return corner(self.get_parameter(name), shape)


def _accept_published(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}encoder.embed_tokens.weight" not in state:
        return
    own = module.state_dict().keys()
    for old in [name for name in state if name.startswith(prefix)]:
        value, name = state.pop(old), old.removeprefix(prefix)
        if _NO_WEIGHTS.fullmatch(name):
            continue
        name = _EMBEDDINGS.get(name, name.replace(".layers.", "."))
        if name == "target_embedding.weight" and name not in own:
            # One table is held under two names.
            continue
        projection = _PROJECTION.fullmatch(name)
        if projection is None:
            state[prefix + name] = value
        elif ".encoder_attn." in name:
            queries, rest = value.tensor_split([len(value) // 3])
            state[f"{prefix}{projection[1]}.q_proj.{projection[2]}"] = queries
            state[f"{prefix}{projection[1]}.kv_proj.{projection[2]}"] = rest
        else:
            state[f"{prefix}{projection[1]}.in_proj.{projection[2]}"] = value

"""Weights drawn from an explicit generator: the same generator state gives the same network, on any machine."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import numpy as np
import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class SelfInitialised(nn.Module):
    """A module that holds parameters of its own and knows their initial values."""

    @abstractmethod
    def initialise(self) -> None:
        """Sets the parameters that this module, not its children, holds."""


def initialise(module: M, rng: np.random.Generator) -> M:
    """Draws all weights anew, in place, and returns the module. The global random state is neither read nor moved.

    Convolutions: normal with variance 2 / (outputs per group × kernel area) (He et al., ICCV 2015, fan-out). Linear
    layers: uniform within ±1/√inputs. Embeddings: normal with variance 1 / dimension, the padding 0. Biases 0. Norms:
    weight 1, bias 0, running statistics as before any batch.

    Raises TypeError for a module with parameters of an unknown kind.
    """
    with torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, SelfInitialised):
                part.initialise()
            elif isinstance(part, nn.Conv2d):
                fan_out = part.out_channels // part.groups * part.kernel_size[0] * part.kernel_size[1]
                drawn = rng.standard_normal(part.weight.shape, dtype=np.float32) * np.float32((2 / fan_out) ** 0.5)
                part.weight.copy_(torch.from_numpy(drawn))
            elif isinstance(part, nn.Linear):
                bound = part.in_features**-0.5
                part.weight.copy_(torch.from_numpy(rng.uniform(-bound, bound, part.weight.shape)))
            elif isinstance(part, nn.Embedding):
                drawn = rng.standard_normal(part.weight.shape, dtype=np.float32) * np.float32(part.embedding_dim**-0.5)
                part.weight.copy_(torch.from_numpy(drawn))
                if part.padding_idx is not None:
                    part.weight[part.padding_idx] = 0
            elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
                part.reset_parameters()
            elif next(part.parameters(recurse=False), None) is not None:
                raise TypeError(f"{name}: {type(part).__name__} holds parameters, how to initialise them is unknown")
            if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
                part.bias.zero_()
    return module

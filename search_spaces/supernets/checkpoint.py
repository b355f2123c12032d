"""Training states as bytes: safetensors, never pickle, so that reading one runs no code.

Errors::

    ValueError
    └── BadCheckpoint    the bytes are no checkpoint, or one of another network
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class BadCheckpoint(ValueError):
    """The bytes are no checkpoint, or do not fit the network."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training run after ``epoch`` epochs: copies of the weights (and statistics) and of the optimiser's momenta."""

    epoch: int
    weights: Mapping[str, Tensor]
    momenta: Mapping[str, Tensor]


def take_checkpoint(epoch: int, network: nn.Module, optimiser: torch.optim.Optimizer) -> Checkpoint:
    """Copies the present state, to the CPU."""
    momenta = {}
    for name, parameter in network.named_parameters():
        momentum = optimiser.state[parameter].get("momentum_buffer")
        if momentum is not None:
            momenta[name] = _copy(momentum)
    return Checkpoint(epoch, {name: _copy(value) for name, value in network.state_dict().items()}, momenta)


def restore(checkpoint: Checkpoint, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Puts the state back. Raises `BadCheckpoint` if it is another network's."""
    try:
        network.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise BadCheckpoint(f"not a checkpoint of this network: {error}") from error
    for name, parameter in network.named_parameters():
        if name in checkpoint.momenta:
            optimiser.state[parameter]["momentum_buffer"] = checkpoint.momenta[name].to(parameter.device, copy=True)


def dump_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The inverse of `load_checkpoint`."""
    from safetensors.torch import save

    weights = {f"weights.{name}": value for name, value in checkpoint.weights.items()}
    momenta = {f"momenta.{name}": value for name, value in checkpoint.momenta.items()}
    data: bytes = save(weights | momenta | {"epoch": torch.tensor(checkpoint.epoch)})
    return data


def load_checkpoint(data: bytes) -> Checkpoint:
    """Raises `BadCheckpoint` for anything that `dump_checkpoint` did not write."""
    tensors = _load(data)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "momenta": {}}
    epoch = tensors.pop("epoch", None)
    if epoch is None or epoch.ndim or epoch.dtype != torch.int64:
        raise BadCheckpoint("no checkpoint: it has no epoch")
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise BadCheckpoint(f"no checkpoint: unknown part {part!r}")
        parts[part][rest] = value
    return Checkpoint(int(epoch), **parts)


def dump_weights(network: nn.Module) -> bytes:
    """The state dict alone, under its own names."""
    from safetensors.torch import save

    data: bytes = save({name: _copy(value) for name, value in network.state_dict().items()})
    return data


def load_weights(network: nn.Module, data: bytes) -> None:
    """Loads what `dump_weights` wrote. Raises `BadCheckpoint` if it is another network's, or no safetensors."""
    restore(Checkpoint(0, _load(data), {}), network, torch.optim.SGD(network.parameters(), lr=0.0))


def _load(data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"no safetensors: {error}") from error
    return tensors


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
